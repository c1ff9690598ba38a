"""The compiled training step: one teacher forward, and the update of each member."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import taps
from kdjax.pretrained import initialize
from kdjax.runtime import progress
from kdjax.runtime.progress import counted
from kdjax.training import accumulate, loss_weights, members, memory, multi_step, partition, remat, sharding
from kdjax.training import step as steps
from kdjax.training.schemes import data_free, dot, on_policy
from kdjax.training.setup import LoopConfig, Member, Setup
from kdjax.types import Model

# `init(seed, t, batch) -> state` and `update(state, t, batch) -> (state, losses)` of one seed.
Functions = tuple[Callable, Callable]


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """A training step on a mesh, or `run.dispatch` steps in one program.

  Attributes:
    forward: `(forward_inputs, batch) -> (augmented_batch, t)`, compiled.
    forward_inputs: the teacher's variables; a tuple of them and the training data where these live on the
      device.
    updates: member -> `(state, t, batch) -> (state, losses)` over all seeds, compiled.
    teacher_variables: passed as `t` to the members that run the teacher in their update.
    runs_teacher: the names of these members.
  """

  forward: Callable
  forward_inputs: Any
  updates: Mapping[str, Callable]
  teacher_variables: Any
  runs_teacher: frozenset[str]

  def teacher_forward(self, batch: Mapping) -> tuple[Mapping, Mapping]:
    """(augmented batch, its teacher taps)."""
    return self.forward(self.forward_inputs, batch)

  def update(self, name: str, state: Any, t: Mapping, batch: Mapping) -> tuple[Any, Mapping]:
    """(a member's state after the step, its losses as (sum, count)); `batch` is the augmented one."""
    t = self.teacher_variables if name in self.runs_teacher else t
    return self.updates[name](state, t, batch)


def compile_step(
  setup: Setup, how: LoopConfig, mesh: jax.sharding.Mesh, batch: Mapping, data: Mapping = {}
) -> tuple[CompiledStep, dict[str, Any]]:
  """(the compiled step, the initial state of each member).

  Args:
    setup: of the training.
    how: settings of the loop; with `how.dispatch` above 1 the step takes as many batches, stacked.
    mesh: from `sharding.make_mesh`.
    batch: a training batch, on the mesh.
    data: the training data, where they live on the device; the step then takes row numbers as its batch.

  Raises:
    KdjaxError: if the training does not fit the free memory.
  """
  axis = sharding.AXIS if how.parallel == 'pmap' else None
  setup = _with_split_taps(setup, mesh)
  functions = {name: member_functions(setup, member, axis, mesh) for name, member in setup.members.items()}
  names = taps_read(setup, batch) if setup.wanted is None else setup.wanted
  forward = steps.make_teacher_forward(setup.teacher, setup.augment, names)
  shapes = jax.eval_shape(forward, setup.teacher_variables, batch)
  states_of_one, specs = {}, {}
  for name, (init, _) in functions.items():
    t = setup.teacher_variables if setup.members[name].needs_live_teacher() else shapes[1]
    one = states_of_one[name] = jax.eval_shape(init, 0, t, shapes[0])
    key = setup.rules_of
    specs[name] = partition.of_state(one, one.params, mesh, how.rules(key), f'run.shard.{key}')
  teacher_specs = partition.of_variables(
    setup.teacher_variables, mesh, how.rules('teacher'), 'run.shard.teacher'
  )
  needs = _memory_needs(setup, how, mesh, states_of_one, specs, teacher_specs, batch, shapes, data)
  check_memory = functools.partial(
    memory.check, setup.name, available=memory.free(mesh), advice=_memory_advice(setup, how)
  )
  check_memory(needs)

  teacher_variables = jax.device_put(
    setup.teacher_variables, partition.shardings(teacher_specs, mesh)
  )  # once
  compiled = sharding.compile_teacher_forward(forward, mesh, shapes, setup.batch_size)
  example = compiled(teacher_variables, batch)
  updates, states = {}, {}
  with progress.compiling(setup.name, _described(setup)) as tell:
    for i, (name, init_and_update) in enumerate(functions.items(), 1):
      if len(functions) > 1:
        tell(f'member {i} of {len(functions)}')
      common = setup, name, init_and_update, how, mesh, specs[name]
      updates[name], states[name], program = _compile_member(*common, teacher_variables, example, shapes)
      check_memory(needs | memory.temporary(program))

  inputs = teacher_variables
  if data:
    forward = multi_step.from_rows(forward)
    inputs = inputs, jax.device_put(dict(data), sharding.replicated(mesh))
  if data or how.dispatch > 1:
    forward = multi_step.teacher_forward_over(forward, how.dispatch)
    compiled = sharding.compile_teacher_forward(forward, mesh, example, setup.batch_size, how.dispatch)
  with_live_teacher = frozenset(name for name, member in setup.members.items() if member.needs_live_teacher())
  return CompiledStep(compiled, inputs, updates, teacher_variables, with_live_teacher), states


def _described(setup: Setup) -> str:
  """'700 steps of 128 examples, 5 seeds'."""
  size = f'{counted(setup.steps, "step")} of {counted(setup.batch_size, "example")}'
  per_member = f' of each of {len(setup.members)} members' if len(setup.members) > 1 else ''
  return f'{size}, {counted(len(setup.seeds), "seed")}{per_member}'


def _with_split_taps(setup: Setup, mesh: jax.sharding.Mesh) -> Setup:
  """The setup with `partition.with_split_taps` of its models."""

  def split(model):
    return partition.with_split_taps(model, mesh, setup.batch_size) if model else model

  members = {name: member._replace(model=split(member.model)) for name, member in setup.members.items()}
  return setup._replace(teacher=split(setup.teacher), members=members)


def _compile_member(setup, name, functions, how, mesh, specs, teacher_variables, example, shapes):
  """(update over all seeds, initial state, compiled program) of one member.

  `specs` are the PartitionSpecs of the state of one seed. `example` is the (augmented batch, taps) of one
  teacher forward, `shapes` are its shapes.
  """
  member, (init, update), replicated = setup.members[name], functions, sharding.replicated(mesh)
  augmented, t = example
  over = sharding.over_devices(example, mesh, setup.batch_size, how.dispatch)
  stacked_batch, stacked_t = multi_step.stacked(example, how.dispatch, over)
  if member.needs_live_teacher():
    t = stacked_t = teacher_variables
  loops = jax.default_backend() == 'cpu'
  one, stacked = (partition.shardings(specs, mesh, stacked) for stacked in (False, True))
  of_program = one if loops else stacked
  if not loops:
    init, update = steps.vmap_seeds(init), steps.vmap_seeds(update)
  init = jax.jit(init, out_shardings=of_program)
  seeds = jax.device_put(jnp.array(setup.seeds, jnp.uint32), replicated)
  state = (steps.loop_over_seeds(replicated, stacked)(init) if loops else init)(seeds, t, augmented)
  related = loss_weights.related(member.method, state.params['method'], state.stats['method'])
  update = multi_step.update_over(update, how.dispatch, member.needs_live_teacher())
  update = sharding.compile_update(
    update, mesh, how.parallel, related, shapes[1], setup.batch_size, of_program
  )
  if member.start:
    state = initialize.apply_init(stacked)(state, member.start)
  lowered = init(seeds[0], t, augmented) if loops else state
  program = update.lower(lowered, stacked_t, stacked_batch).compile()
  over_seeds = steps.loop_over_seeds(one, (stacked, replicated)) if loops else lambda f: f
  return over_seeds(program), state, program


def member_functions(
  setup: Setup, member: Member, axis: str | None = None, mesh: jax.sharding.Mesh | None = None
) -> Functions:
  """`init(seed, t, batch) -> state` and `update(state, t, batch) -> (state, losses)` of one seed of a member.

  Here a training scheme is chosen: `step`, or a fork of it in `schemes/`.

  Raises:
    KdjaxError: for a scheme with settings that it does not have.
  """
  decay = member.average.decay()
  if member.image_generator:
    if axis or member.parts > 1 or member.remat:
      raise KdjaxError("a generator runs under run.parallel='jit' alone, with no accumulate and no remat.")
    parts = member.model, _live_teacher(setup), member.image_generator, member.method, member.tx
    place = functools.partial(sharding.shard_batch_axis, mesh=mesh or sharding.make_mesh())
    unroll = jax.default_backend() == 'cpu'
    update = data_free.make_update(*parts, ema=decay, unroll=unroll, place=place)
    return data_free.make_init(*parts, ema=bool(decay)), update
  init = steps.make_init(
    member.model, member.method, member.tx, ema=bool(decay), self_teacher=member.self_teacher
  )
  shared: dict[str, Any] = {'task_weight': member.task_weight}
  if isinstance(member.tx, dot.Dot):
    make_update = dot.make_update
    if decay or axis or member.parts > 1:
      raise KdjaxError(
        "the optimiser 'dot' keeps no average of the weights, accumulates nothing and runs under 'jit' alone."
      )
  else:
    make_update, shared = steps.make_update, shared | {'ema': decay, 'axis': axis}
  if member.parts > 1:
    shared['gradient'] = accumulate.in_parts(member.parts)
  model = remat.remat(member.model) if member.remat else member.model
  task = members.each_alone(on_policy.of_labels(setup.task), member.model.members)
  update = make_update(model, task, member.method, member.tx, **shared)
  if member.self_teacher:
    update = steps.with_self_teacher(update, member.model)
  if member.writer:
    init, update = on_policy.with_live_teacher(
      init, update, member.model, _live_teacher(setup), member.writer
    )
  return init, update


def _live_teacher(setup: Setup) -> Model:
  if setup.teacher is None:
    raise KdjaxError("a generator, and on_policy, need the live teacher: set teacher.source='live'.")
  return setup.teacher


def taps_read(setup: Setup, batch: Mapping) -> frozenset[str]:
  """Names of the teacher's taps that any member reads, by tracing the members with taps that record it."""
  if setup.teacher is None:
    return frozenset()
  forward = steps.make_teacher_forward(setup.teacher, setup.augment)
  augmented, t = jax.eval_shape(forward, setup.teacher_variables, batch)
  names = set()
  for member in setup.members.values():
    if not member.needs_live_teacher():
      init, update = member_functions(setup, member._replace(parts=1))

      def step(t, batch, init=init, update=update):
        state = init(0, taps.RecordingTaps(t, names), batch)
        return update(state, taps.RecordingTaps(t, names), batch)

      jax.eval_shape(step, t, augmented)
  return frozenset(names)


def _memory_needs(setup, how, mesh, states_of_one, specs, teacher_specs, batch, shapes, data):
  """Purpose -> bytes on each device, without the temporary buffers of a step."""
  states, best = 0, 0
  for name, member in setup.members.items():
    state, spec = states_of_one[name], specs[name]
    states += len(setup.seeds) * partition.bytes_each(state, spec, mesh)
    evaluated = partition.bytes_each(member.evaluated(state), member.evaluated(spec), mesh)
    best += len(setup.seeds) * evaluated * (how.select == 'best')
  needs = {
    'for weights, optimisers and the best so far': states + best,
    'for a copy of these while it is saved': states + best,
    "for the teacher's weights": partition.bytes_each(setup.teacher_variables, teacher_specs, mesh),
    "for batches and the teacher's outputs": how.dispatch
    * memory.size((batch, batch, *shapes))
    / sharding.batch_parts(mesh),
  }
  return needs | ({'for the training data': memory.size(data)} if data else {})


def _memory_advice(setup, how):
  """The advice of a memory error: which keys to change, with their values."""
  stage = 'teacher' if setup.name == 'teacher' else 'student'
  train, member = f'{stage}.train', next(iter(setup.members.values()))
  keys = {
    'run.members_per_program': len(setup.members),
    'seeds': len(setup.seeds),
    f'{train}.batch_size': setup.batch_size,
    'run.dispatch': how.dispatch,
  }
  lower = [f'{key} ({value})' for key, value in keys.items() if value > 1]
  higher = [f'{train}.accumulate ({member.parts})'] + ([] if member.remat else [f'{train}.remat (False)'])
  return f'lower {", ".join(lower)}, or raise {" or ".join(higher)}'
