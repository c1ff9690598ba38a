"""What a recipe takes on devices that are not here: memory, operations, time. The command `plan`."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from rich import box
from rich.console import Console
from rich.table import Table

from kdjax.experiment import stage_setup
from kdjax.experiment.experiment import Experiment
from kdjax.nn import conv
from kdjax.runtime import progress
from kdjax.runtime.files import first_line
from kdjax.runtime.program import program
from kdjax.runtime.topology import Topology
from kdjax.training import loss_weights, memory, partition, sharding
from kdjax.training import step as steps
from kdjax.training.setup import LoopConfig, Setup
from kdjax.training.traced import Traced, member_functions, memory_advice, trace

UTILISATION = 0.4  # the share of the peak of the operations that is assumed to be reached
PROGRAM = 'for what a step makes on its way'
LIBTPU = ', for want of libtpu: pip install libtpu'


class Stage(NamedTuple):
  """One stage on each device.

  Attributes:
    name: of the stage.
    needs: purpose -> bytes.
    flops: of one step.
    gradients: bytes that a device sends to others in one step to add up gradients.
    split: those to bring together weights that are split.
    steps: of the training.
    advice: what to change where it does not fit.
  """

  name: str
  needs: dict[str, float]
  flops: float
  gradients: float
  split: float
  steps: int
  advice: str

  @property
  def memory(self) -> float:
    return sum(self.needs.values())


def stages(experiment: Experiment, topology: Topology) -> tuple[list[Stage], str]:
  """(the stages that train, how their programs were compiled).

  Raises:
    KdjaxError: where the sizes of the mesh, or a batch, do not fit the topology.
  """
  config = experiment.config
  how = LoopConfig.of(config['select'], config['run'])
  mesh, compiled = _mesh(how, topology)
  names = [] if experiment.teacher_is_published else ['teacher']
  planned = []
  with conv.portable(True):  # no convolutions of this CPU
    for name in [*names, 'student']:
      setup = stage_setup.setup(experiment, name, shapes_only=True)
      section = 'teacher' if name == 'teacher' else 'student'
      sharding.check_batch(setup.batch_size, mesh, f'{section}.train.batch_size')
      planned.append(_stage(setup, how, mesh, compiled))
  return planned, compiled


def _mesh(how: LoopConfig, topology: Topology) -> tuple[Any, str]:
  """(the mesh of the topology, what compiles for it: 'libtpu', or '' where none does)."""
  sizes = sharding.axis_sizes(how.mesh, topology.count)
  if topology.libtpu:
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # there is no TPU to ask
    try:
      with _quiet():
        devices = topologies.get_topology_desc(topology.libtpu, 'tpu').devices
      return sharding.make_mesh(how.mesh, devices), 'libtpu'
    except (RuntimeError, ImportError, NotImplementedError, ValueError) as e:
      if 'libtpu' not in str(e):
        progress.say(f'plan: libtpu cannot compile for {topology.describe()} ({first_line(e)})')
  types = (jax.sharding.AxisType.Auto,) * len(sizes)
  return jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=types), ''


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Hides what libtpu writes to the standard error, past Python, where it finds no TPU."""
  kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(null, 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(null)


def _batch(source: Any, size: int) -> dict[str, Any]:
  """The shapes of a training batch."""
  first = source.take(np.arange(1)) | {'epoch': np.zeros(1, np.int32)}
  return {k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype) for k, v in first.items()}


def _stage(setup: Setup, how: LoopConfig, mesh: Any, compiled: str) -> Stage:
  batch, tensor = _batch(setup.source, setup.batch_size), mesh.shape.get('tensor', 1)
  traced = trace(setup, how, mesh, batch)
  if compiled:
    with progress.compiling(setup.name, f'for {mesh.size} devices, by {compiled}'):
      temporary, flops = _programs(traced, how, mesh, batch)
    flops /= mesh.size
  else:  # a device's share of the batch, on one device of this machine, where seeds are trained one by one
    one = setup._replace(batch_size=setup.batch_size // sharding.batch_parts(mesh))
    here, share = sharding.make_mesh({}, jax.devices()[:1]), _batch(setup.source, one.batch_size)
    alone = how._replace(mesh={}, shard={})
    with progress.compiling(setup.name, f'{progress.counted(one.batch_size, "example")}, on this machine'):
      temporary, flops = (x / tensor for x in _programs(trace(one, alone, here, share), alone, here, share))
    temporary *= len(setup.seeds)
  gradients, split = _sent(traced, mesh)
  needs = traced.needs | {PROGRAM: temporary}
  return Stage(setup.name, needs, flops, gradients, split, setup.steps, _advice(setup, how, mesh))


def _programs(traced: Traced, how: LoopConfig, mesh: Any, batch: Mapping) -> tuple[float, float]:
  """(bytes of temporary buffers on each device, operations on all) of one step, compiled for the mesh."""
  setup, size, seeds = traced.setup, traced.setup.batch_size, len(traced.setup.seeds)
  loops = sharding.on_cpu(mesh)

  def rows(tree):
    return _placed(tree, sharding.over_devices(tree, mesh, size))

  teacher = _placed(setup.teacher_variables, partition.shardings(traced.teacher_specs, mesh))
  forward = sharding.compile_teacher_forward(traced.forward, mesh, traced.shapes, size).lower(
    teacher, rows(dict(batch))
  )
  temporary, flops = _compiled(forward, mesh)
  for name, member in setup.members.items():
    one, t = traced.states[name], teacher if member.needs_live_teacher() else rows(traced.shapes[1])
    state = one if loops else jax.tree.map(lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype), one)
    shardings = partition.shardings(traced.specs[name], mesh, stacked=not loops)
    related = loss_weights.related(member.method, one.params['method'], one.stats['method'])

    def lower(update, t=t, state=state, shardings=shardings, related=related):
      update = update if loops else steps.vmap_seeds(update)
      compiled = sharding.compile_update(
        update, mesh, how.parallel, related, traced.shapes[1], size, shardings
      )
      return compiled.lower(_placed(state, shardings), t, rows(traced.shapes[0]))

    buffers, operations = _compiled(lower(traced.functions[name][1]), mesh)
    if member.parts > 1:  # a loop over parts is counted as one of them
      whole = lower(member_functions(setup, member._replace(parts=1), mesh=mesh)[1])
      operations = _compiled(whole, mesh)[1]
    temporary = max(temporary, buffers)
    flops += operations * (seeds if loops else 1)
  return temporary, flops


def _placed(tree: Any, shardings: Any) -> Any:
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _compiled(lowered: Any, mesh: Any) -> tuple[float, float]:
  """(bytes of temporary buffers on each device, operations on all) of a program."""
  program = lowered.compile()
  on_all = lowered.cost_analysis()  # None where the devices are not here
  flops = on_all.get('flops', 0) if on_all else mesh.size * program.cost_analysis().get('flops', 0)
  return float(sum(memory.temporary(program).values())), flops


def _sent(traced: Traced, mesh: Any) -> tuple[float, float]:
  """Bytes that a device sends in a step: (to add up gradients, to bring together weights that are split).

  Rings: n devices add up b bytes by 2 b (n - 1) / n from each. Weights that are split over 'fsdp' are brought
  together for the forward and the backward pass, the teacher's once, and their gradients added up in parts.
  What 'tensor' sends, activations, is not counted.
  """
  data, fsdp = mesh.shape['data'], mesh.shape.get('fsdp', 1)
  gradients = split = 0.0
  for name, state in traced.states.items():
    for x, spec in _arrays(state.params, traced.specs[name].params):
      each = len(traced.setup.seeds) * partition.bytes_each(x, spec, mesh)
      n = data if 'fsdp' in spec else data * fsdp
      gradients += 2 * each * (n - 1) / n
      split += 3 * each * (fsdp - 1) if 'fsdp' in spec else 0
  for x, spec in _arrays(traced.setup.teacher_variables, traced.teacher_specs):
    split += partition.bytes_each(x, spec, mesh) * (fsdp - 1) if 'fsdp' in spec else 0
  return gradients, split


def _arrays(tree: Any, specs: Any) -> list[tuple[Any, Any]]:
  leaves = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))
  return list(zip(jax.tree.leaves(tree), leaves, strict=True))


def _advice(setup: Setup, how: LoopConfig, mesh: Any) -> str:
  """What to change where a stage does not fit: its own keys, and the axis that splits its weights."""
  keys = {setup.rules_of: setup.rules_of} | ({'teacher': 'teacher'} if setup.teacher else {})
  whole = [f"run.shard.{key} to 'auto'" for key in keys if not how.rules(key)]
  fsdp = mesh.shape.get('fsdp', 1)
  advice = f'raise run.mesh.fsdp ({fsdp})' if fsdp < mesh.size else ''
  advice += f'{" and " * bool(advice)}set {" and ".join(whole)}' if whole else ''
  return ', or '.join(filter(None, [advice, memory_advice(setup, how)]))


def step_seconds(stage: Stage, topology: Topology, fsdp: int) -> tuple[float, float]:
  """(seconds of the operations of a step, of what is sent): the larger is the step, if they overlap.

  Within a node, or a TPU's slice, devices send by their links; a group of 'fsdp' within a node too.
  """
  device = topology.device
  far = device.network if topology.nodes > 1 and device.network else device.link
  near = device.link if fsdp <= topology.per_node else far
  return stage.flops / (UTILISATION * device.flops), stage.gradients / far + stage.split / near


def show(experiment: Experiment, topology: Topology, console: Console) -> None:
  """Prints the plan of every stage that trains, and the line that launches it."""
  planned, compiled = stages(experiment, topology)
  fsdp = sharding.axis_sizes(experiment.config['run']['mesh'], topology.count).get('fsdp', 1)
  table = Table(box=box.SIMPLE_HEAD, title=f'{experiment.config["name"]} on {topology.describe()}')
  table.title_justify = 'left'
  for heading in ('on each device', *(stage.name for stage in planned)):
    table.add_column(heading, justify='left' if heading == 'on each device' else 'right')
  for purpose in planned[0].needs | planned[-1].needs:
    table.add_row(purpose.removeprefix('for '), *(progress.size(s.needs.get(purpose, 0)) for s in planned))
  table.add_section()
  times = [step_seconds(stage, topology, fsdp) for stage in planned]
  free = topology.device.memory
  table.add_row('memory', *(f'{progress.size(s.memory)}, {s.memory / free:.0%}' for s in planned))
  table.add_row('operations of a step', *(f'{s.flops / 1e12:.3g} TFLOP' for s in planned))
  table.add_row('sent in a step', *(progress.size(s.gradients + s.split) for s in planned))
  table.add_row('seconds of the operations', *(f'{t[0]:.3g}' for t in times))
  table.add_row('seconds of what is sent', *(f'{t[1]:.3g}' for t in times))
  table.add_row('steps', *(f'{s.steps:,}' for s in planned))
  whole = [max(t) * s.steps for t, s in zip(times, planned, strict=True)]
  table.add_row('in all', *(progress.duration(seconds) for seconds in whole))
  console.print(table)
  for line in _remarks(experiment, topology, planned, compiled):
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _remarks(experiment, topology, planned, compiled) -> list[str]:
  """What the table assumes, what does not fit, and how to launch it."""
  how = 'compiled for these devices by libtpu'
  if not compiled:
    how = f"of a device's share of a batch, compiled for this machine{LIBTPU * bool(topology.libtpu)}"
  lines = [
    f'Estimated, not measured: operations at {UTILISATION:.0%} of the peak in bfloat16, data in time, no '
    f'evaluation. What a step makes on its way is {how}.'
  ]
  for stage in planned:
    if stage.memory > topology.device.memory:
      lines.append(f'{stage.name}: does not fit {topology.device.name}: {stage.advice}.')
  if any(max(step_seconds(stage, topology, 1)) < 1e-3 for stage in planned):
    lines.append('A step below a millisecond is shorter than its dispatch by the host: see run.dispatch.')
  config = experiment.config
  if config['teacher']['source'] == 'store':
    lines.append("teacher.source is 'store': the student's steps are then without the teacher's operations.")
  command = f'--config=RECIPE --workdir=/shared/runs/{config["name"]}'
  lines.append(f'Launch: {topology.launch(program(), command)}')
  return lines
