"""One number an example, a sentiment in [-3, 3]; NaN stands for a label that is not known."""

from typing import Literal

import jax.numpy as jnp
import numpy as np

from kdjax import taps
from kdjax.errors import unknown
from kdjax.types import Task

LOSSES = {'l1': jnp.abs, 'l2': jnp.square}
NAMES = ('highly negative', 'negative', 'weakly negative', 'neutral', 'weakly positive', 'positive')
NAMES += ('highly positive',)  # of the whole numbers from -3 to 3


def name(value: float) -> str:
  """The class of seven that a sentiment rounds to."""
  return NAMES[int(np.round(np.clip(value, -3, 3))) + 3]


def weighted_f1(truth: np.ndarray, guess: np.ndarray) -> float:
  """F1 of each of the two classes, averaged with the share of each among the truths."""
  total = 0.0
  for c in (False, True):
    hits, both = np.sum((truth == c) & (guess == c)), np.sum(truth == c) + np.sum(guess == c)
    total += np.mean(truth == c) * (2 * hits / both if both else 0.0)
  return float(total)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
  """Pearson's; 0 where one of the two does not vary."""
  a, b = a - a.mean(), b - b.mean()
  norm = np.sqrt(np.sum(a * a) * np.sum(b * b))
  return float(np.sum(a * b) / norm) if norm > 0 else 0.0


def known(gathered) -> tuple[np.ndarray, np.ndarray]:
  """(answers, labels), f64 [N], of the examples whose label is known."""
  answers, labels = (np.asarray(gathered[k], np.float64) for k in ('logits', 'label'))
  there = np.isfinite(labels)
  return answers[there, 0], labels[there]


def finalize(gathered) -> dict[str, float]:
  """The field's other metrics, as MMSA computes them, all shares of 1 but the correlation."""
  answers, labels = known(gathered)
  found = {'correlation': correlation(answers, labels)}
  for classes, most in (('acc7', 3), ('acc5', 2)):  # both rounded to even, as NumPy does
    found[classes] = float(np.mean(np.round(answers.clip(-most, most)) == np.round(labels.clip(-most, most))))
  charged = labels != 0
  for kind, truth, guess in (
    ('nonnegative', labels >= 0, answers >= 0),
    ('positive', labels[charged] > 0, answers[charged] > 0),
  ):
    found[f'acc2_{kind}'] = float(np.mean(truth == guess)) if len(truth) else float('nan')
    found[f'f1_{kind}'] = weighted_f1(truth, guess) if len(truth) else float('nan')
  return found


def references(train, test) -> dict[str, float]:
  """The mean absolute error of the one number that is best in training."""
  labels, truth = (np.asarray(x['label'], np.float64) for x in (train, test))
  best = np.nanmedian(labels)
  return {'median of the training labels': float(np.nanmean(np.abs(truth - best)))}


def compare(teacher, student) -> dict[str, float]:
  """How far the student's answers are from the teacher's, and how they go together, over one split."""
  a, b = (np.asarray(x['logits'], np.float64)[:, 0] for x in (teacher, student))
  return {'mae_to_teacher': float(np.mean(np.abs(a - b))), 'correlation_with_teacher': correlation(a, b)}


def cards(gathered, examples, classes, size: int = 12) -> list[dict]:
  """Examples with the answers of all stages, as one of seven classes: half of them the worst answered."""
  truth = next(iter(gathered.values()))['label']
  error = np.max([np.abs(g['logits'][:, 0] - truth) for g in gathered.values()], 0)
  rows = np.flatnonzero(np.isfinite(truth))
  worst = rows[np.argsort(-error[rows], kind='stable')][: size // 2]
  others = np.random.default_rng(0).permutation(np.setdiff1d(rows, worst))
  made = []
  for row in np.concatenate([worst, others])[:size]:
    text = examples[int(row)].get('text', f'example {row}')
    answers = {stage: name(g['logits'][row, 0]) for stage, g in gathered.items()}
    made.append({'text': f'{text} ({truth[row]:+.1f})', 'truth': name(truth[row])} | answers)
  return made


def answer(outputs, classes) -> list[tuple[str, float]]:
  """The sentiment, with the name of its class."""
  value = float(outputs['logits'][0])
  return [(name(value), value)]


def sentiment(*, loss: Literal['l1', 'l2'] = 'l1') -> Task:
  """Regression of `label` [B] on `logits` [B, 1]; metric `mae`, the mean absolute error.

  Beside it: `acc7` and `acc5`, of whole numbers clipped to [-3, 3] and [-2, 2]; `acc2_nonnegative` and
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

  def mean(of, outputs, batch):
    answers = taps.raise_precision(outputs['logits'])[..., 0]
    there = jnp.isfinite(batch['label'])
    values = of(answers - jnp.where(there, batch['label'], 0))
    weight = taps.example_mask(batch, values) * there
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
