"""What a recipe takes on devices that are not here: memory, operations, time. The command `plan`."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies

from kdjax.errors import KdjaxError
from kdjax.experiment import redraw, stage_setup
from kdjax.experiment.cohort import TRAINED
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.validate import check
from kdjax.input import splits
from kdjax.nn import conv
from kdjax.runtime import progress
from kdjax.runtime.files import first_line
from kdjax.runtime.topology import Topology
from kdjax.training import loss_weights, memory, multi_step, partition, sharding
from kdjax.training import step as steps
from kdjax.training.setup import LoopConfig, Setup
from kdjax.training.traced import Traced, member_functions, memory_advice, trace


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


class Plan(NamedTuple):
  """The stages of a recipe on a topology, in the order in which they train.

  Attributes:
    stages: of them.
    compiled: how the programs were compiled, in words.
    uncounted: what the operations leave out, '' for nothing.
  """

  stages: list[Stage]
  compiled: str
  uncounted: str


def plan(experiment: Experiment, topology: Topology) -> Plan:
  """Plans all stages that train.

  Raises:
    KdjaxError: as `validate.check` does, for these devices.
  """
  config = experiment.config
  how = LoopConfig.of(config['select'], config['run'])
  mesh, reason = _mesh(how, topology)
  check(experiment, mesh)
  apart = ('ceiling', 'teacher') if experiment.teacher_is_published else ('ceiling',)
  planned = {}
  with conv.portable(True):  # no convolutions of this CPU
    for name in (stage for stage in TRAINED if stage not in apart):
      planned[name] = _stage(_setup(experiment, name), how, mesh, topology.device.memory)
  if experiment.has_ceiling:  # it is the baseline on other examples
    planned['ceiling'] = planned['baseline']._replace(name='ceiling')
  whole = 'compiled for these devices by libtpu'
  share = f"of a device's share of a batch, compiled for this machine{reason}"
  loops = config['generator'] or config['on_policy']['share'] or config['generation']['seeds']
  return Plan(
    [planned[name] for name in TRAINED if name in planned],
    whole if isinstance(mesh, jax.sharding.Mesh) else share,
    'what is written or generated in training' * bool(loops),
  )


def _setup(experiment: Experiment, name: str) -> Setup:
  """Of the members and seeds that train together."""
  members = dict(list(experiment.members.items())[: experiment.config['run']['members_per_program']])
  if name == 'teacher':
    members = {'teacher': experiment}
  i = 0 if redraw.apart(experiment.config, name) else None
  return stage_setup.setup(experiment, name, members, i, shapes_only=True)


def _mesh(how: LoopConfig, topology: Topology) -> tuple[Any, str]:
  """(the mesh of the topology, why it is an abstract one): the latter where nothing here compiles for it."""
  sizes, reason = sharding.axis_sizes(how.mesh, topology.count), ''
  if sizes.get('tensor', 1) > topology.per_node:
    raise KdjaxError(
      f'run.mesh.tensor is {sizes["tensor"]}, and a process has {topology.per_node} devices of '
      f'{topology.describe()}: lower it, and raise run.mesh.fsdp.'
    )
  if topology.libtpu:
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # there is no TPU to ask
    try:
      with _quiet():
        devices = topologies.get_topology_desc(topology.libtpu, 'tpu').devices
      return sharding.make_mesh(how.mesh, devices), ''
    except (RuntimeError, ImportError, NotImplementedError, ValueError) as e:
      missing = not importlib.util.find_spec('libtpu')
      reason = ', for want of libtpu: pip install libtpu' if missing else f' ({first_line(e)})'
  types = (jax.sharding.AxisType.Auto,) * len(sizes)
  return jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=types), reason


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


def _stage(setup: Setup, how: LoopConfig, mesh: Any, free: float) -> Stage:
  batch = _batch(setup.source, setup.batch_size)
  traced = trace(setup, how, mesh, batch, _resident(setup, how, free))
  if isinstance(mesh, jax.sharding.Mesh):
    with progress.compiling(setup.name, f'for {mesh.size} devices, by libtpu'):
      temporary, flops = _programs(traced, how, mesh, batch)
    flops /= mesh.size
  else:  # a device's share of the batch, on one device of this machine
    one = setup._replace(batch_size=setup.batch_size // sharding.batch_parts(mesh))
    here, share = sharding.make_mesh({}, jax.devices('cpu')[:1]), _batch(setup.source, one.batch_size)
    alone, specs = how._replace(mesh={}, shard={}), (traced.specs, traced.teacher_specs)
    with progress.compiling(setup.name, f'{progress.counted(one.batch_size, "example")}, on this machine'):
      temporary, flops = _programs(trace(one, alone, here, share), alone, here, share)
    leaves = jax.tree.leaves(specs, is_leaf=_is_spec)
    if any('tensor' in spec for spec in leaves):  # else each of its devices does the same
      temporary, flops = temporary / mesh.shape['tensor'], flops / mesh.shape['tensor']
  gradients, split = _sent(traced, mesh)
  needs = traced.needs | {memory.TEMPORARY: temporary}
  return Stage(setup.name, needs, flops, gradients, split, setup.steps, _advice(setup, how, mesh))


def _resident(setup: Setup, how: LoopConfig, free: float) -> Mapping:
  """The training data, where they would live on an accelerator with so many free bytes."""
  arrays = setup.source.arrays if isinstance(setup.source, splits.InMemorySplit) else {}
  small = how.resident == 'auto' and memory.size(arrays) < multi_step.SHARE * free
  return arrays if how.resident == 'yes' or small else {}


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
    temporary = max(temporary, buffers * (seeds if loops else 1))  # an accelerator trains seeds together
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
  return list(zip(jax.tree.leaves(tree), jax.tree.leaves(specs, is_leaf=_is_spec), strict=True))


def _is_spec(x: Any) -> bool:
  return isinstance(x, jax.sharding.PartitionSpec)


def _advice(setup: Setup, how: LoopConfig, mesh: Any) -> str:
  """What to change where a stage does not fit: its own keys, and the axis that splits its weights."""
  keys = [setup.rules_of] + (['teacher'] if setup.teacher else [])
  whole = [f"run.shard.{key} to 'auto'" for key in keys if not how.rules(key)]
  fsdp = mesh.shape.get('fsdp', 1)
  advice = f'raise run.mesh.fsdp ({fsdp})' if fsdp < mesh.size else ''
  advice += f'{" and " * bool(advice)}set {" and ".join(whole)}' if whole else ''
  return ', or '.join(filter(None, [advice, memory_advice(setup, how)]))
