"""One number per example, on any scale; NaN stands for a label that is not known."""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
import numpy as np

from kdjax.input.cards import inputs as card_inputs
from kdjax.nn import taps
from kdjax.nn.correlation import pearson, spearman
from kdjax.options import Number, Positive
from kdjax.types import Task


def known(gathered: Mapping, offset: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
  """(predictions, labels), f64 [N], in the units of the labels, of the examples with a known label."""
  labels = np.asarray(gathered['label'], np.float64)
  mask = np.isfinite(labels)
  return numbers(gathered, offset, scale)[mask], labels[mask]


def numbers(gathered: Mapping, offset: float, scale: float) -> np.ndarray:
  """The predictions, f64 [N]."""
  return np.asarray(gathered['logits'], np.float64)[:, 0] * scale + offset


def references(train, test, metric: str) -> dict[str, float]:
  """The error of the mean and of the median of the training labels."""
  labels, truth = (np.asarray(x['label'], np.float64) for x in (train, test))
  labels, truth = labels[np.isfinite(labels)], truth[np.isfinite(truth)]
  if not len(labels) or not len(truth):
    return {}
  error = np.square if metric == 'mse' else np.abs
  best = {'mean': np.mean(labels), 'median': np.median(labels)}
  return {f'{name} of the training labels': float(np.mean(error(truth - x))) for name, x in best.items()}


def regression(
  *,
  loss: Literal['mse', 'huber'] = 'mse',
  delta: Positive = 1.0,
  metric: Literal['mse', 'mae'] = 'mse',
  offset: Number = 0.0,
  scale: Positive = 1.0,
) -> Task:
  """Regression of `label` [B] on `logits` [B, 1]: a prediction is `logits` · scale + offset.

  Metrics, in the units of the labels: `mse` and `mae`; `r2`, one less the squared error over that of the
  mean of the test labels; `pearson` and `spearman`, the correlation of values and of ranks. Lower errors
  are better. `kdjax data` prints mean and standard deviation of the labels, which offset and scale take.

  Args:
    loss: 'mse', the squared error, or 'huber' (1964): half the square up to `delta`, straight beyond.
    delta: of 'huber', in units of `scale`.
    metric: the one that is compared, 'mse' or 'mae'.
    offset: what a prediction of 0 stands for, such as the mean of the labels.
    scale: what a prediction of 1 adds to it, such as their standard deviation; the loss is of labels
      divided by it.
  """

  def huber(x):
    size = jnp.abs(x)
    return jnp.where(size <= delta, 0.5 * jnp.square(x), delta * (size - 0.5 * delta))

  def mean(penalty, factor, outputs, batch):
    predictions = taps.raise_precision(outputs['logits'])[..., 0]
    labelled = jnp.isfinite(batch['label'])
    labels = (jnp.where(labelled, batch['label'], offset) - offset) / scale
    weight = taps.example_mask(batch, predictions) * labelled
    values = penalty(predictions - labels) * factor
    return jnp.sum(jnp.where(weight > 0, values, 0) * weight), jnp.sum(weight)

  def objective(outputs, batch):
    return mean(huber if loss == 'huber' else jnp.square, 1.0, outputs, batch)

  def metrics(outputs, batch):
    errors = {'mse': mean(jnp.square, scale**2, outputs, batch), 'mae': mean(jnp.abs, scale, outputs, batch)}
    return errors | {'loss': objective(outputs, batch)}

  def finalize(gathered):
    predictions, labels = known(gathered, offset, scale)
    total = np.sum(np.square(labels - labels.mean()))
    left = np.sum(np.square(labels - predictions))
    return {
      'r2': float(1 - left / total) if total > 0 else float('nan'),
      'pearson': pearson(predictions, labels),
      'spearman': spearman(predictions, labels),
    }

  def compare(teacher, student):
    """Distance and correlation of the student's and the teacher's predictions, over one split."""
    a, b = (numbers(x, offset, scale) for x in (teacher, student))
    return {'mae_to_teacher': float(np.mean(np.abs(a - b))), 'correlation_with_teacher': pearson(a, b)}

  def cards(gathered, examples, classes, size: int = 12) -> list[dict]:
    """Examples with the predictions of all stages; half have the largest errors."""
    truth = next(iter(gathered.values()))['label']
    predictions = {stage: numbers(g, offset, scale) for stage, g in gathered.items()}
    error = np.max([np.abs(p - truth) for p in predictions.values()], 0)
    rows = np.flatnonzero(np.isfinite(truth))
    worst = rows[np.argsort(-error[rows], kind='stable')][: size // 2]
    others = np.random.default_rng(0).permutation(np.setdiff1d(rows, worst))
    gallery = []
    for row in np.concatenate([worst, others])[:size]:
      example = examples[int(row)]
      card = card_inputs(example, int(row))
      predicted = {stage: f'{p[row]:.4g}' for stage, p in predictions.items()}
      gallery.append(card | {'truth': (f'{truth[row]:.4g}',)} | predicted)  # near is right too
    return gallery

  def answer(outputs, classes) -> list[tuple[str, float]]:
    """The number."""
    value = float(outputs['logits'][0]) * scale + offset
    return [(f'{value:.4g}', value)]

  return Task(
    loss=objective,
    metrics=metrics,
    gather=('logits', 'label'),
    finalize=finalize,
    references=lambda train, test: references(train, test, metric),
    compare=compare,
    metric=metric,
    higher_is_better=False,
    outputs=lambda dataset: {'logits': 1},
    cards=cards,
    answer=answer,
    label='number',
  )
