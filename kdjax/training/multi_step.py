"""Several steps in one compiled program, and training data on the device, where a batch is row numbers.

For steps that take less time than the host needs to dispatch them. Both compute the same as single steps, up
to the rounding of another compiled program.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.training import memory

SHARE = 0.25  # of a device's free memory, up to which 'auto' puts the training data there


def lives_on_device(resident: str, arrays: Mapping | None, free: float | None) -> bool:
  """Whether the training data are put on the device, by `run.resident`.

  Args:
    resident: 'yes', 'no', or 'auto': on an accelerator, below `SHARE` of its free memory.
    arrays: the data; None where they are not in memory, or come with stored teacher outputs.
    free: free bytes of a device, None where unknown.

  Raises:
    KdjaxError: for 'yes' without `arrays`.
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
  """`teacher_forward((variables, data), rows)`, which takes the batch `rows` from the data on the device."""

  def forward_of_rows(inputs, rows):
    variables, data = inputs
    batch = {k: jnp.take(v, rows['row'], axis=0) for k, v in data.items()}
    return teacher_forward(variables, batch | {'epoch': rows['epoch']})

  return forward_of_rows


def teacher_forward_over(teacher_forward: Callable, steps: int) -> Callable:
  """`teacher_forward(inputs, batches)` over `steps` stacked batches, in one program."""
  if steps == 1:
    return teacher_forward
  return lambda inputs, batches: jax.lax.map(lambda batch: teacher_forward(inputs, batch), batches)


def update_over(update: Callable, steps: int, needs_live_teacher: bool = False) -> Callable:
  """`update(state, t, batches) -> (state, losses)` over `steps` stacked batches; sums and counts are added.

  `t` are taps, stacked as the batches are, or with `needs_live_teacher` the teacher's variables.
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
  """The shapes of `steps` trees stacked, with `shardings`; for one step the tree itself."""
  if steps == 1:
    return tree
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct((steps, *x.shape), x.dtype, sharding=s), tree, shardings
  )
