"""Several labels per example, each of which holds or not; -1 stands for one that is not known."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from kdjax.input.cards import inputs as card_inputs
from kdjax.nn import taps
from kdjax.types import Task

SHOWN = 5  # classes in the text of a card


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
  """Of one class: precision at each threshold, weighted by the step in recall; NaN without such an example.

  Equal scores are one threshold.
  """
  order = np.argsort(-scores, kind='stable')
  scores, hits = scores[order], np.cumsum(truth[order])
  if not len(hits) or not hits[-1]:
    return float('nan')
  last = np.append(scores[1:] != scores[:-1], True)  # the last example of each threshold
  hits, taken = hits[last], np.flatnonzero(last) + 1
  return float(np.sum(np.diff(hits, prepend=0) * hits / taken) / hits[-1])


def f1(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
  """2 · hits / (predicted + true); 0 where both are 0."""
  return 2 * hits / np.maximum(predicted + true, 1)


def mean_average_precision(gathered: Mapping) -> float:
  """The mean over the classes that some example has; examples of unknown label are left out."""
  scores, label = np.asarray(gathered['logits'], np.float64), np.asarray(gathered['label'])
  each = [average_precision(s[y >= 0], y[y >= 0] > 0) for s, y in zip(scores.T, label.T, strict=True)]
  return float(np.nanmean(each)) if not np.isnan(each).all() else float('nan')


def finalize(gathered: Mapping) -> dict[str, float]:
  """Mean average precision, and F1 of the classes whose probability is above a half."""
  label = np.asarray(gathered['label'])
  known, predicted = label >= 0, np.asarray(gathered['logits']) > 0
  hits = np.sum(known & predicted & (label > 0), 0)
  counts = hits, np.sum(known & predicted, 0), np.sum(label > 0, 0)
  seen = counts[2] > 0  # as for the mean average precision
  return {
    'map': mean_average_precision(gathered),
    'micro_f1': float(f1(*(x.sum() for x in counts))),
    'macro_f1': float(f1(*counts)[seen].mean()) if seen.any() else float('nan'),
  }


def references(train: Mapping, test: Mapping) -> dict[str, float]:
  """The share of each class, which ranks no example above another: its average precision is that share."""
  label = np.asarray(test['label'])
  counts = [(np.sum(y > 0), np.sum(y >= 0)) for y in label.T]
  shares = [true / n for true, n in counts if true]
  return {'prior of each class': float(np.mean(shares))} if shares else {}


def compare(teacher: Mapping, student: Mapping) -> dict[str, float]:
  """How often the two agree on a class, and KL(teacher || student) of the sigmoids, over one split."""
  x, y = (np.asarray(g['logits'], np.float64) for g in (teacher, student))
  p = expit(x)
  kl = p * (np.logaddexp(0, -y) - np.logaddexp(0, -x)) + (1 - p) * (np.logaddexp(0, y) - np.logaddexp(0, x))
  return {'agreement': float(np.mean((x > 0) == (y > 0))), 'kl_to_teacher': float(kl.sum(-1).mean())}


def names(rows: np.ndarray, classes) -> str:
  """The classes that hold, of [C]."""
  held = [classes[i] for i in np.flatnonzero(rows > 0)]
  more = f' … ({len(held)})' if len(held) > SHOWN else ''
  return (', '.join(held[:SHOWN]) + more) or 'none'


def cards(gathered, examples, classes, size: int = 12) -> list[dict]:
  """Examples with the predictions of all stages, up to half of them with a wrong one."""
  truth = np.asarray(next(iter(gathered.values()))['label'])
  predictions = {stage: np.asarray(g['logits']) > 0 for stage, g in gathered.items()}
  wrong = np.any([((p != (truth > 0)) & (truth >= 0)).any(1) for p in predictions.values()], 0)
  order = np.random.default_rng(0).permutation(len(truth))
  gallery = []
  for row in np.concatenate([order[wrong[order]][: size // 2], order[~wrong[order]]])[:size]:
    example = examples[int(row)]
    card = card_inputs(example, int(row))
    shown = {stage: names(p[row], classes) for stage, p in predictions.items()}
    known = (truth[row] >= 0).any()
    gallery.append(card | {'truth': names(truth[row], classes) if known else '?'} | shown)
  return gallery


def answer(outputs, classes) -> list[tuple[str, float]]:
  """Every class with its probability."""
  p = expit(np.asarray(outputs['logits'], np.float64))
  return [(classes[i], float(p[i])) for i in np.argsort(-p)]


def multilabel(*, metric: Literal['map', 'micro_f1', 'macro_f1'] = 'map') -> Task:
  """Binary cross-entropy of each class on `logits` [B, C] and `label` [B, C] of 0, 1 and -1.

  The loss is the mean over the known labels of an example, then over the examples that have some. Metrics:
  `map`, the mean over the classes of the average precision; `micro_f1` and `macro_f1` of the classes whose
  probability is above a half, over all labels together and as a mean over classes. Means over classes are
  of those that the split has.

  Args:
    metric: the one that is compared.
  """

  def loss(outputs, batch):
    logits, label = taps.raise_precision(outputs['logits']), batch['label']
    known = label >= 0
    each = jax.nn.softplus(logits) - logits * (label > 0)
    count = jnp.sum(known, -1)
    values = jnp.sum(jnp.where(known, each, 0), -1) / jnp.maximum(count, 1)
    weight = taps.example_mask(batch, values) * (count > 0)
    return jnp.sum(jnp.where(weight > 0, values, 0) * weight), jnp.sum(weight)

  return Task(
    loss=loss,
    metrics=lambda outputs, batch: {'loss': loss(outputs, batch)},
    gather=('logits', 'label'),
    finalize=finalize,
    references=references if metric == 'map' else lambda train, test: {},
    compare=compare,
    metric=metric,
    higher_is_better=True,
    outputs=lambda dataset: {'logits': len(dataset.classes)},
    cards=cards,
    answer=answer,
    whole=True,
    label='classes',
  )
