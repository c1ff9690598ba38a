"""Several steps in one dispatch, and training data that live on the device, where a batch is a list of rows.

For steps that are shorter than the host takes to start them. Neither changes what is computed, but a loop
is compiled apart from its body alone, and may round otherwise.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.training import memory

SHARE = 0.25  # of a device's free memory that data may take without being asked to


def lives_on_device(resident: str, arrays: Mapping | None, free: float | None) -> bool:
  """Whether the training data are put on the device: `run.resident`, and 'auto' where it is of use.

  Args:
    wanted: 'yes', 'no' or 'auto', on accelerators where they take less than `SHARE` of what is free.
    arrays: of the data; None where they are not held in memory, or answers of a store join them.
    free: bytes that a device has left, None where that is not known.

  Raises:
    KdjaxError: where they are asked for and cannot be there.
  """
  if resident not in ('yes', 'no', 'auto'):
    raise unknown('run.resident', resident, ('auto', 'yes', 'no'))
  if resident == 'yes' and arrays is None:
    raise KdjaxError('run.resident needs data within data.memory, and a live teacher.')
  if resident == 'auto':
    if arrays is None or free is None or jax.default_backend() == 'cpu':
      return False
    return memory.size(arrays) < SHARE * free
  return resident == 'yes'


def check(dispatch: int, parallel: str, counts: Mapping[str, int]) -> None:
  """Raises KdjaxError where a loop in strides of `dispatch` steps does not end where something is due."""
  if dispatch < 1:
    raise KdjaxError(f'run.dispatch is {dispatch}: it is a number of steps, 1 or more.')
  if dispatch > 1 and parallel == 'pmap':
    raise KdjaxError("run.dispatch above 1 runs under run.parallel='jit' alone.")
  for name, n in counts.items():
    if n % dispatch:
      raise KdjaxError(f'run.dispatch is {dispatch}, and {name}, {n}, is no multiple of it.')


def from_rows(teacher_forward: Callable) -> Callable:
  """`teacher_forward((variables, data), rows)` of a `teacher_forward(variables, batch)`.

  The batch is taken out of the data.
  """

  def forward_of_rows(inputs, rows):
    variables, data = inputs
    batch = {k: jnp.take(v, rows['row'], axis=0) for k, v in data.items()}
    return teacher_forward(variables, batch | {'epoch': rows['epoch']})

  return forward_of_rows


def teacher_forward_over(teacher_forward: Callable, steps: int) -> Callable:
  """`teacher_forward(held, batches)` of as many batches, stacked, in one program."""
  if steps == 1:
    return teacher_forward
  return lambda held, batches: jax.lax.map(lambda batch: teacher_forward(held, batch), batches)


def update_over(update: Callable, steps: int, needs_live_teacher: bool = False) -> Callable:
  """`update(state, t, batches) -> (state, losses)` over as many batches, the (sum, count) of losses added up.

  With `needs_live_teacher`, `t` are the teacher's variables, the same for all; else its taps, stacked as the
  batches are.
  """
  if steps == 1:
    return update

  def updates(state, t, batches):
    def one(state, inputs):
      return update(state, t, inputs) if needs_live_teacher else update(state, *inputs)

    state, losses = jax.lax.scan(one, state, batches if needs_live_teacher else (t, batches))
    return state, jax.tree.map(lambda x: x.sum(0), losses)

  return updates


def stacked(tree: Any, steps: int, shardings: Any) -> Any:
  """The shapes of as many of `tree` stacked, on `shardings`; the tree itself where it is one."""
  if steps == 1:
    return tree
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct((steps, *x.shape), x.dtype, sharding=s), tree, shardings
  )
