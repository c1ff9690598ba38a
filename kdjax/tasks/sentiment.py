"""One number per example, a sentiment in [-3, 3]; NaN stands for an unknown label."""

from typing import Literal

import jax.numpy as jnp
import numpy as np

from kdjax.errors import unknown
from kdjax.nn import taps
from kdjax.nn.correlation import pearson
from kdjax.types import Task

LOSSES = {'l1': jnp.abs, 'l2': jnp.square}
NAMES = ('highly negative', 'negative', 'weakly negative', 'neutral', 'weakly positive', 'positive')
NAMES += ('highly positive',)  # of the whole numbers from -3 to 3


def name(value: float) -> str:
  """The class of seven that a sentiment rounds to."""
  return NAMES[int(np.round(np.clip(value, -3, 3))) + 3]


def weighted_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
  """F1 of each of the two classes, averaged with the share of each among the truths."""
  total = 0.0
  for c in (False, True):
    hits, both = np.sum((truth == c) & (predicted == c)), np.sum(truth == c) + np.sum(predicted == c)
    total += np.mean(truth == c) * (2 * hits / both if both else 0.0)
  return float(total)


def known(gathered) -> tuple[np.ndarray, np.ndarray]:
  """(predictions, labels), f64 [N], of the examples with a known label."""
  predictions, labels = (np.asarray(gathered[k], np.float64) for k in ('logits', 'label'))
  mask = np.isfinite(labels)
  return predictions[mask, 0], labels[mask]


def finalize(gathered) -> dict[str, float]:
  """The field's other metrics, as MMSA computes them, all shares of 1 but the correlation."""
  predictions, labels = known(gathered)
  metrics = {'correlation': pearson(predictions, labels)}
  for classes, limit in (('acc7', 3), ('acc5', 2)):  # both rounded to even, as NumPy does
    metrics[classes] = float(
      np.mean(np.round(predictions.clip(-limit, limit)) == np.round(labels.clip(-limit, limit)))
    )
  nonzero = labels != 0
  for kind, truth, predicted in (
    ('nonnegative', labels >= 0, predictions >= 0),
    ('positive', labels[nonzero] > 0, predictions[nonzero] > 0),
  ):
    metrics[f'acc2_{kind}'] = float(np.mean(truth == predicted)) if len(truth) else float('nan')
    metrics[f'f1_{kind}'] = weighted_f1(truth, predicted) if len(truth) else float('nan')
  return metrics


def references(train, test) -> dict[str, float]:
  """The mean absolute error of the one number that is best in training."""
  labels, truth = (np.asarray(x['label'], np.float64) for x in (train, test))
  best = np.nanmedian(labels)
  return {'median of the training labels': float(np.nanmean(np.abs(truth - best)))}


def compare(teacher, student) -> dict[str, float]:
  """Distance and correlation of the student's and the teacher's predictions, over one split."""
  a, b = (np.asarray(x['logits'], np.float64)[:, 0] for x in (teacher, student))
  return {'mae_to_teacher': float(np.mean(np.abs(a - b))), 'correlation_with_teacher': pearson(a, b)}


def cards(gathered, examples, classes, size: int = 12) -> list[dict]:
  """Examples with the predictions of all stages, as one of seven classes; half have the largest errors."""
  truth = next(iter(gathered.values()))['label']
  error = np.max([np.abs(g['logits'][:, 0] - truth) for g in gathered.values()], 0)
  rows = np.flatnonzero(np.isfinite(truth))
  worst = rows[np.argsort(-error[rows], kind='stable')][: size // 2]
  others = np.random.default_rng(0).permutation(np.setdiff1d(rows, worst))
  gallery = []
  for row in np.concatenate([worst, others])[:size]:
    text = examples[int(row)].get('text', f'example {row}')
    predictions = {stage: name(g['logits'][row, 0]) for stage, g in gathered.items()}
    gallery.append({'text': f'{text} ({truth[row]:+.1f})', 'truth': name(truth[row])} | predictions)
  return gallery


def answer(outputs, classes) -> list[tuple[str, float]]:
  """The sentiment, with the name of its class."""
  value = float(outputs['logits'][0])
  return [(name(value), value)]


def sentiment(*, loss: Literal['l1', 'l2'] = 'l1') -> Task:
  """Regression of `label` [B] on `logits` [B, 1]; metric `mae`, the mean absolute error.

  Also: `acc7` and `acc5`, of whole numbers clipped to [-3, 3] and [-2, 2]; `acc2_nonnegative` and
  `f1_nonnegative`, of negative against all else; `acc2_positive` and `f1_positive`, of negative against
  positive, with the labels of 0 left out; Pearson's `correlation`. F1 is weighted by class. Papers differ in
  which Acc-2 they mean, and the second is the higher one.

  Args:
    loss: 'l1', the absolute error, or 'l2', its square.

  Raises:
    KdjaxError: for another loss.
  """
  if loss not in LOSSES:
    raise unknown('loss of the task sentiment', loss, LOSSES)

  def mean(penalty, outputs, batch):
    predictions = taps.raise_precision(outputs['logits'])[..., 0]
    labelled = jnp.isfinite(batch['label'])
    values = penalty(predictions - jnp.where(labelled, batch['label'], 0))
    weight = taps.example_mask(batch, values) * labelled
    return jnp.sum(jnp.where(weight > 0, values, 0) * weight), jnp.sum(weight)

  def metrics(outputs, batch):
    return {'mae': mean(jnp.abs, outputs, batch), 'loss': mean(LOSSES[loss], outputs, batch)}

  return Task(
    loss=lambda outputs, batch: mean(LOSSES[loss], outputs, batch),
    metrics=metrics,
    gather=('logits', 'label'),
    finalize=finalize,
    references=references,
    compare=compare,
    metric='mae',
    higher_is_better=False,
    outputs=lambda dataset: {'logits': 1},
    cards=cards,
    answer=answer,
    label='number',
  )
