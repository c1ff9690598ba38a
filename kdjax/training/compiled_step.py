"""The compiled training step: one teacher forward, and the update of each member."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.pretrained import initialize
from kdjax.runtime import progress, topology
from kdjax.runtime.progress import counted
from kdjax.training import loss_weights, memory, multi_step, partition, sharding
from kdjax.training import step as steps
from kdjax.training.setup import LoopConfig, Setup
from kdjax.training.traced import memory_advice, trace


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
    flops: operations of a step on all devices; 0 where the peak of the device is not known.
  """

  forward: Callable
  forward_inputs: Any
  updates: Mapping[str, Callable]
  teacher_variables: Any
  runs_teacher: frozenset[str]
  flops: float = 0.0

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
  traced = trace(setup, how, mesh, batch, data)
  setup, forward, shapes, specs = traced.setup, traced.forward, traced.shapes, traced.specs
  check_memory = functools.partial(
    memory.check, setup.name, available=memory.free(mesh), advice=memory_advice(setup, how)
  )
  check_memory(traced.needs)

  teacher_variables = jax.device_put(
    setup.teacher_variables, partition.shardings(traced.teacher_specs, mesh)
  )  # once
  compiled = sharding.compile_teacher_forward(forward, mesh, shapes, setup.batch_size)
  example = compiled(teacher_variables, batch)
  updates, states = {}, {}
  flops = _flops(mesh, lambda: compiled.lower(teacher_variables, batch))
  with progress.compiling(setup.name, _described(setup)) as tell:
    for i, (name, init_and_update) in enumerate(traced.functions.items(), 1):
      if len(traced.functions) > 1:
        tell(f'member {i} of {len(traced.functions)}')
      common = setup, name, init_and_update, how, mesh, specs[name]
      updates[name], states[name], lowered, program = _compile_member(
        *common, teacher_variables, example, shapes
      )
      parts = setup.members[name].parts  # XLA counts a loop over them once
      flops += parts * _flops(mesh, lambda lowered=lowered: lowered)
      check_memory(traced.needs | memory.temporary(program))

  inputs = teacher_variables
  if data:
    forward = multi_step.from_rows(forward)
    inputs = inputs, jax.device_put(dict(data), sharding.replicated(mesh))
  if data or how.dispatch > 1:
    forward = multi_step.teacher_forward_over(forward, how.dispatch)
    compiled = sharding.compile_teacher_forward(forward, mesh, example, setup.batch_size, how.dispatch)
  with_live_teacher = frozenset(name for name, member in setup.members.items() if member.needs_live_teacher())
  return CompiledStep(compiled, inputs, updates, teacher_variables, with_live_teacher, flops), states


def _flops(mesh: jax.sharding.Mesh, lower: Callable[[], Any]) -> float:
  """Operations on all devices of the program of `lower()`; 0 where the peak of a device is not known."""
  if not topology.kind(mesh.devices.flat[0].device_kind):
    return 0.0
  return float((lower().cost_analysis() or {}).get('flops', 0))


def _described(setup: Setup) -> str:
  """'700 steps of 128 examples, 5 seeds'."""
  size = f'{counted(setup.steps, "step")} of {counted(setup.batch_size, "example")}'
  per_member = f' of each of {len(setup.members)} members' if len(setup.members) > 1 else ''
  return f'{size}, {counted(len(setup.seeds), "seed")}{per_member}'


def _compile_member(setup, name, functions, how, mesh, specs, teacher_variables, example, shapes):
  """(update over all seeds, initial state, lowered and compiled program) of one member.

  `specs` are the PartitionSpecs of the state of one seed. `example` is the (augmented batch, taps) of one
  teacher forward, `shapes` are its shapes.
  """
  member, (init, update), replicated = setup.members[name], functions, sharding.replicated(mesh)
  augmented, t = example
  over = sharding.over_devices(example, mesh, setup.batch_size, how.dispatch)
  stacked_batch, stacked_t = multi_step.stacked(example, how.dispatch, over)
  if member.needs_live_teacher():
    t = stacked_t = teacher_variables
  loops = sharding.on_cpu(mesh)
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
  one_state = init(seeds[0], t, augmented) if loops else state
  lowered = update.lower(one_state, stacked_t, stacked_batch)
  program = lowered.compile()
  over_seeds = steps.loop_over_seeds(one, (stacked, replicated)) if loops else lambda f: f
  return over_seeds(program), state, lowered, program
