"""A training as functions and shapes, of which nothing is computed: what is compiled, and what it takes."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from kdjax.errors import KdjaxError
from kdjax.nn import taps
from kdjax.training import accumulate, members, memory, partition, remat, sharding
from kdjax.training import step as steps
from kdjax.training.schemes import data_free, dot, on_policy
from kdjax.training.setup import LoopConfig, Member, Setup
from kdjax.types import Model

# `init(seed, t, batch) -> state` and `update(state, t, batch) -> (state, losses)` of one seed.
Functions = tuple[Callable, Callable]


class Traced(NamedTuple):
  """A training of which only shapes are known.

  Attributes:
    setup: of the training, with `partition.with_split_taps` of its models.
    functions: member -> its init and update.
    forward: the teacher forward, see `step.make_teacher_forward`.
    shapes: of the (augmented batch, taps) that it gives.
    states: member -> the shapes of its state of one seed.
    specs: member -> the PartitionSpecs of that.
    teacher_specs: those of the teacher's variables.
    needs: purpose -> bytes on each device, without the temporary buffers of a step.
  """

  setup: Setup
  functions: Mapping[str, Functions]
  forward: Callable
  shapes: tuple[Mapping, Mapping]
  states: Mapping[str, Any]
  specs: Mapping[str, Any]
  teacher_specs: Any
  needs: dict[str, float]


def trace(
  setup: Setup, how: LoopConfig, mesh: jax.sharding.Mesh, batch: Mapping, data: Mapping = {}
) -> Traced:
  """Traces a training; its arguments are those of `compile_step`, of which arrays may be shapes."""
  axis = sharding.AXIS if how.parallel == 'pmap' else None
  setup = _with_split_taps(setup, mesh)
  functions = {name: member_functions(setup, member, axis, mesh) for name, member in setup.members.items()}
  names = taps_read(setup, batch) if setup.wanted is None else setup.wanted
  forward = steps.make_teacher_forward(setup.teacher, setup.augment, names)
  shapes = jax.eval_shape(forward, setup.teacher_variables, batch)
  states, specs, key = {}, {}, setup.rules_of
  for name, (init, _) in functions.items():
    t = setup.teacher_variables if setup.members[name].needs_live_teacher() else shapes[1]
    one = states[name] = jax.eval_shape(init, 0, t, shapes[0])
    specs[name] = partition.of_state(one, one.params, mesh, how.rules(key), f'run.shard.{key}')
  teacher_specs = partition.of_variables(
    setup.teacher_variables, mesh, how.rules('teacher'), 'run.shard.teacher'
  )
  needs = _memory_needs(setup, how, mesh, states, specs, teacher_specs, batch, shapes, data)
  return Traced(setup, functions, forward, shapes, states, specs, teacher_specs, needs)


def _with_split_taps(setup: Setup, mesh: jax.sharding.Mesh) -> Setup:
  """The setup with `partition.with_split_taps` of its models."""

  def split(model):
    return partition.with_split_taps(model, mesh, setup.batch_size) if model else model

  members = {name: member._replace(model=split(member.model)) for name, member in setup.members.items()}
  return setup._replace(teacher=split(setup.teacher), members=members)


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
    mesh = mesh or sharding.make_mesh()
    place = functools.partial(sharding.shard_batch_axis, mesh=mesh)
    update = data_free.make_update(*parts, ema=decay, unroll=sharding.on_cpu(mesh), place=place)
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


def _memory_needs(
  setup, how, mesh, states_of_one, specs, teacher_specs, batch, shapes, data
) -> dict[str, float]:
  """Purpose -> bytes on each device, without the temporary buffers of a step."""
  states, best = 0.0, 0.0
  for name, member in setup.members.items():
    state, spec = states_of_one[name], specs[name]
    states += len(setup.seeds) * partition.bytes_each(state, spec, mesh)
    evaluated = partition.bytes_each(member.evaluated(state), member.evaluated(spec), mesh)
    best += len(setup.seeds) * evaluated * (how.select == 'best')
  needs: dict[str, float] = {
    'for weights, optimisers and the best so far': states + best,
    'for a copy of these while it is saved': states + best,
    "for the teacher's weights": partition.bytes_each(setup.teacher_variables, teacher_specs, mesh),
    "for batches and the teacher's outputs": how.dispatch
    * memory.size((batch, batch, *shapes))
    / sharding.batch_parts(mesh),
  }
  return needs | ({'for the training data': float(memory.size(data))} if data else {})


def memory_advice(setup: Setup, how: LoopConfig) -> str:
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
