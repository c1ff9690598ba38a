"""A loop for many short trainings of one model, as pruning in rounds has them, compiled once.

`kdjax.training.trainer` trains what `parametrize` gives as well; it logs, saves and resumes, and compiles
anew for each training.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.training import finite, optimizers
from kdjax.training import step as steps
from kdjax.training.schemes import dot
from kdjax.types import Method, Model, Task

LARGEST = 1000  # examples of a forward pass


class Retrain(NamedTuple):
  """Functions of one kind of training.

  Attributes:
    init: `(seed, arrays) -> variables`.
    train: `(variables, arrays, seed) -> variables` after all epochs.
    errors: `(variables, arrays) -> float`, misclassified examples in per cent.
    taps: `(variables, arrays) -> {tap: [N, ...]}`, in evaluation mode.
  """

  init: Callable
  train: Callable
  errors: Callable
  taps: Callable


def make(
  model: Model,
  task: Task,
  method: Method,
  optimiser: Mapping[str, Any],
  *,
  epochs: int,
  batch_size: int,
  examples: int,
  task_weight: float = 1.0,
) -> Retrain:
  """The functions to train a classifier, with or without a teacher.

  The arrays are those of a batch over all `examples`, such as 'image' and 'label'. The teacher's taps are
  among them, as 'teacher/<tap>': since nothing augments the examples, one forward pass of the teacher serves
  all. The learning rate begins anew in each training, and so does the optimiser's state.

  Args:
    model: of `parametrize`, or any other.
    task: its loss, of the labels.
    method: the distillation losses, combined.
    optimiser: as `optimizers.optimiser` takes it.
    epochs: of each training, over the examples in another order each.
    batch_size: examples a step; the last ones of an epoch that fill no batch are left out.
    examples: their number.
    task_weight: of the loss of the labels.

  Raises:
    KdjaxError: for fewer examples than a batch has, the optimiser 'dot', or a loss that is not finite.
  """
  per_epoch = examples // batch_size
  if per_epoch < 1:
    raise KdjaxError(f'{examples} examples fill no batch of {batch_size}.')
  tx = optimizers.optimiser(optimiser, max(epochs * per_epoch, 1))
  if isinstance(tx, dot.Dot):
    raise KdjaxError("the optimiser 'dot' has a step of its own: choose another.")
  start = steps.make_init(model, method, tx)
  update = steps.make_update(model, task, method, tx, task_weight=task_weight)

  def batch_of(arrays, rows):
    batch = {k: jnp.take(v, rows, axis=0) for k, v in arrays.items()}
    return taps_of(batch), {k: v for k, v in batch.items() if not k.startswith(TEACHER)}

  @jax.jit
  def init(seed, arrays):
    return start(seed, *batch_of(arrays, jnp.arange(batch_size)))

  @jax.jit
  def begun(variables, seed, arrays):
    state = start(seed, *batch_of(arrays, jnp.arange(batch_size)))
    stats = {k: v for k, v in variables.items() if k != 'params'}
    params = state.params | {'student': variables['params']}
    stats = state.stats | {'student': stats}
    return state.replace(params=params, stats=stats, opt_state=tx.init(params))

  @jax.jit
  def epoch(state, arrays, rows):
    def one(state, rows):
      return update(state, *batch_of(arrays, rows))[0], None

    return jax.lax.scan(one, state, rows)[0]

  @jax.jit
  def forward(variables, batch):
    return model.apply(variables, batch, train=False)[0]

  def variables_of(state):
    return {'params': state.params['student'], **state.stats['student']}

  def train(variables, arrays, seed):
    state, rng = begun(variables, jnp.uint32(seed), arrays), np.random.default_rng(seed)
    for _ in range(epochs):
      rows = rng.permutation(examples)[: per_epoch * batch_size].reshape(per_epoch, batch_size)
      state = epoch(state, arrays, rows)
    return finite.check(jax.device_get(variables_of(state)), 'a model', 'lower its learning rate')

  def taps(variables, arrays):
    n = len(next(iter(arrays.values())))
    ends = [*range(0, n, LARGEST), n]
    parts = [
      forward(variables, {k: v[a:b] for k, v in arrays.items()}) for a, b in zip(ends, ends[1:], strict=False)
    ]
    return {k: np.concatenate([np.asarray(p[k]) for p in parts]) for k in parts[0]}

  def errors(variables, arrays):
    logits = taps(variables, {'image': arrays['image']})['logits']
    return 100 * float(np.mean(logits.argmax(-1) != arrays['label']))

  return Retrain(
    lambda seed, arrays: jax.device_get(variables_of(init(jnp.uint32(seed), arrays))), train, errors, taps
  )


TEACHER = 'teacher/'


def taught(arrays: Mapping[str, Any], taps: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays with a teacher's logits [N, C] among them."""
  return {**arrays, f'{TEACHER}logits': taps['logits']}


def taps_of(batch: Mapping[str, Any]) -> dict[str, Any]:
  """The teacher's taps of a batch, {} without a teacher."""
  return {k.removeprefix(TEACHER): v for k, v in batch.items() if k.startswith(TEACHER)}
