"""Evaluation on a whole split: sums and counts of metrics, divided once, and gathered outputs."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import pipeline
from kdjax.runtime.progress import bar
from kdjax.training import partition, sharding
from kdjax.types import Model, Task


def primary(task: Task, metrics: Mapping) -> tuple[str, bool]:
  """(the name of the metric of a task, whether higher is better); the loss where no captions are written."""
  return (task.metric, task.higher_is_better) if task.metric in metrics else ('loss', False)


class Evaluation(NamedTuple):
  metrics: dict[str, np.ndarray]  # name -> f64 [S], one value a seed
  gathered: list[dict[str, np.ndarray]]  # for each seed the outputs and labels of `Task.gather`, [N, ...]


def make_evaluate(
  model: Model, task: Task, mesh, batch_size: int, gather: bool = True, rules: partition.Rules = None
) -> Callable:
  """`evaluate(variables, source, title='') -> Evaluation`, with variables stacked over S seeds.

  The result does not depend on the batch size, the padding or the number of devices.

  Args:
    model: of the outputs.
    task: of the metrics, and of the names to gather.
    mesh: the devices; the parts of a batch divide `batch_size`.
    batch_size: of all devices together.
    gather: whether outputs are gathered for `Task.finalize` even where `Task.metric` does not need them.
    rules: that split the variables, see `partition`.

  Raises:
    KdjaxError: if the batch does not split over the devices, or no example has a label.
  """
  sharding.check_batch(batch_size, mesh, 'run.eval_batch')
  keys = (*task.gather, 'domain') if gather or task.whole else ()
  whole = sharding.replicated(mesh)

  @jax.jit
  def forward(variables, batch):
    seeds = len(jax.tree.leaves(variables)[0])
    each = []
    for i in range(seeds):
      outputs, _ = model.apply(jax.tree.map(lambda x, i=i: x[i], variables), batch, train=False)
      each.append((task.metrics(outputs, batch), {k: outputs[k] for k in keys if k in outputs}))
    metrics, outputs = jax.tree.map(lambda *x: jnp.stack(x), *each)
    shared = {k: batch[k] for k in ('mask', *keys) if k in batch}
    return jax.lax.with_sharding_constraint((metrics, outputs, shared), whole)

  def evaluate(variables: Mapping, source, title: str = '') -> Evaluation:
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), variables)
    specs = partition.of_variables(one, mesh, rules)
    variables = jax.device_put(variables, partition.shardings(specs, mesh, stacked=True))

    def call(batch):
      return jax.device_get(forward(variables, sharding.to_global_arrays(batch, mesh)))

    return over_batches(call, task, source, batch_size, title)

  return evaluate


def over_batches(forward: Callable, task: Task, source, batch_size: int, title: str = '') -> Evaluation:
  """The evaluation of a whole split, a batch at a time.

  Args:
    forward: `(batch) -> (metrics, outputs, shared)`: name -> (sum [S], count [S]); tap -> [S, B, ...]; batch
      key -> [B, ...] with 'mask'. Without outputs nothing is gathered.
    task: of the metrics.
    source: the examples.
    batch_size: examples at a time.
    title: of the progress bar.

  Raises:
    KdjaxError: if no example has a label.
  """
  sums, gathered = {}, []
  with bar(title or 'evaluating', len(source), 'example') as shown:
    for i, batch in enumerate(pipeline.eval_batches(source, batch_size)):
      metrics, outputs, shared = forward(batch)
      for name, pair in metrics.items():
        sums[name] = sums.get(name, 0) + np.asarray(pair, np.float64)  # [2, S]
      real = shared.pop('mask') > 0
      gathered.append(({k: v[real] for k, v in shared.items()}, {k: v[:, real] for k, v in outputs.items()}))
      shown.update(min((i + 1) * batch_size, len(source)))
  if task.metric in sums and not sums[task.metric][1].any():
    raise KdjaxError(f'{title or "evaluation"}: no example has a label; set --split or data.test.')
  results = {k: total / np.maximum(count, 1) for k, (total, count) in sums.items()}
  if not gathered or not (gathered[0][0] or gathered[0][1]):
    return Evaluation(results, [])
  joined = _join(gathered)
  more = [task.finalize(g) for g in joined]
  results |= {k: np.array([m[k] for m in more]) for k in more[0]}
  return Evaluation(results, joined)


def _join(gathered):
  """Batches of (shared [B, ...], outputs [S, B, ...]) as a dict a seed."""
  shared = {k: np.concatenate([g[0][k] for g in gathered]) for k in gathered[0][0]}
  outputs = {k: np.concatenate([g[1][k] for g in gathered], 1) for k in gathered[0][1]}
  seeds = len(next(iter(outputs.values())))
  return [shared | {k: v[i] for k, v in outputs.items()} for i in range(seeds)]
