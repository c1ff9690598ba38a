"""One label per example, from a fixed set of classes; -1 stands for an unknown label."""

from collections import Counter, defaultdict
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax.input.cards import inputs as card_inputs
from kdjax.nn import taps
from kdjax.options import Rate
from kdjax.types import Task

MANY = 20  # classes above which there is a `top5`


def log_probabilities(logits: np.ndarray) -> np.ndarray:
  """The logarithms f64 [..., C] of the softmax."""
  logits = logits.astype(np.float64)  # SciPy's function takes half a second to import
  return logits - np.logaddexp.reduce(logits, -1, keepdims=True)


def calibration_bins(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> dict[str, np.ndarray]:
  """Sums over the examples whose confidence, that of the arg max, falls into each bin of equal width.

  Examples of an unknown label (-1) are left out.

  Returns:
    'count' and 'right' i64 [bins], 'confidence' f64 [bins].
  """
  logits, labels = logits[labels >= 0], labels[labels >= 0]
  log_p = log_probabilities(logits)
  confidence = np.exp(log_p.max(-1))
  index = np.minimum((confidence * bins).astype(int), bins - 1)
  return {
    'count': np.bincount(index, minlength=bins),
    'right': np.bincount(index[log_p.argmax(-1) == labels], minlength=bins),
    'confidence': np.bincount(index, weights=confidence, minlength=bins),
  }


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
  """ECE of the arg max (Guo et al., 1706.04599, equation 3), in `bins` of equal width.

  Examples of an unknown label (-1) are left out.
  """
  binned = calibration_bins(logits, labels, bins)
  return float(np.abs(binned['right'] - binned['confidence']).sum() / max(binned['count'].sum(), 1))


def macro_f1(logits: np.ndarray, labels: np.ndarray) -> float:
  """Mean over the classes that occur or are predicted of the F1 of the arg max, as scikit-learn has it.

  Examples of an unknown label (-1) are left out.
  """
  return f1_of(logits.argmax(-1), labels) if len(logits) else 0.0


def f1_of(predicted: np.ndarray, labels: np.ndarray) -> float:
  """`macro_f1` of predicted classes [N]."""
  truth, predicted = labels[labels >= 0], predicted[labels >= 0]
  classes = int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
  right = np.bincount(truth[truth == predicted], minlength=classes)
  total = np.bincount(truth, minlength=classes) + np.bincount(predicted, minlength=classes)
  return float(np.mean(2 * right[total > 0] / total[total > 0])) if len(truth) else 0.0


def scored(predicted: np.ndarray, labels: np.ndarray, metric: str) -> float:
  """The metric, 'top1' or 'macro_f1', of predicted classes [N]; unknown labels (-1) are left out."""
  if metric == 'macro_f1':
    return f1_of(predicted, labels)
  return float(np.mean((predicted == labels)[labels >= 0]))


def text_lookup(train, test) -> np.ndarray:
  """For each text of `test` its most frequent label in `train`, [N]."""
  counts = defaultdict(Counter)
  for ids, label in zip(train['text'], train['label'], strict=True):
    counts[ids.tobytes()][int(label)] += 1
  common = Counter(train['label'].tolist()).most_common(1)[0][0]
  best = {k: c.most_common(1)[0][0] for k, c in counts.items()}
  return np.array([best.get(ids.tobytes(), common) for ids in test['text']])


def cards(gathered, examples, classes, size: int = 12) -> list[dict]:
  """Examples with the predictions of all stages, up to half of them with a wrong one."""
  predictions = {stage: g['logits'].argmax(-1) for stage, g in gathered.items()}
  truth = next(iter(gathered.values()))['label']
  wrong = np.any([p != truth for p in predictions.values()], 0)
  order = np.random.default_rng(0).permutation(len(truth))
  gallery = []
  for row in np.concatenate([order[wrong[order]][: size // 2], order[~wrong[order]]])[:size]:
    example = examples[int(row)]
    card = card_inputs(example, int(row))
    predicted = {stage: classes[p[row]] for stage, p in predictions.items()}
    gallery.append(card | {'truth': classes[truth[row]] if truth[row] >= 0 else '?'} | predicted)
  return gallery


def answer(outputs, classes) -> list[tuple[str, float]]:
  """Every class with its probability."""
  p = np.exp(log_probabilities(outputs['logits']))
  return [(classes[i], float(p[i])) for i in np.argsort(-p)]


def classification(*, label_smoothing: Rate = 0.0, metric: Literal['top1', 'macro_f1'] = 'top1') -> Task:
  """Softmax cross-entropy on `logits` [B, C] and `label` [B]; `top1` and others are shares of 1.

  Args:
    label_smoothing: the share of each label that is spread over all classes.
    metric: what decides, `top1` or `macro_f1`, which counts rare classes as much as others.
  """

  def label_mask(batch, values):
    return taps.example_mask(batch, values) * (batch['label'] >= 0)

  def cross_entropy(outputs, batch):
    logits = taps.raise_precision(outputs['logits'])
    targets = jax.nn.one_hot(batch['label'], logits.shape[-1], dtype=logits.dtype)  # -1: zeros
    targets = optax.smooth_labels(targets, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)

  def loss(outputs, batch):
    values = cross_entropy(outputs, batch)
    weight = label_mask(batch, values)
    return jnp.sum(values * weight), jnp.sum(weight)

  def metrics(outputs, batch):
    logits = taps.raise_precision(outputs['logits'])
    weight = label_mask(batch, logits)
    correct = jnp.argmax(logits, -1) == batch['label']
    scores = {'top1': (jnp.sum(correct * weight), jnp.sum(weight)), 'loss': loss(outputs, batch)}
    if logits.shape[-1] <= MANY:
      return scores
    label = jnp.take_along_axis(logits, jnp.maximum(batch['label'], 0)[:, None], -1)
    before = jnp.sum(logits > label, -1)  # classes with a higher score
    return scores | {'top5': (jnp.sum((before < 5) * weight), jnp.sum(weight))}

  def finalize(gathered):
    logits, labels = gathered['logits'], gathered['label']
    return {'ece': expected_calibration_error(logits, labels), 'macro_f1': macro_f1(logits, labels)}

  def references(train, test):
    """Scores without the image: the most frequent label; the best label for each text."""
    train, test = ({k: v[x['label'] >= 0] for k, v in x.items()} for x in (train, test))
    labels = train['label']
    if not len(labels) or not len(test['label']):
      return {}
    common = Counter(labels.tolist()).most_common(1)[0][0]
    predictions = {'majority': np.full_like(test['label'], common)}
    if 'text' in train:
      predictions['text-only lookup'] = text_lookup(train, test)
    return {k: scored(v, test['label'], metric) for k, v in predictions.items()}

  def compare(teacher, student):
    """How often the two agree, and KL(teacher || student) at T = 1, over one split."""
    log_p = log_probabilities(teacher['logits'])
    log_q = log_probabilities(student['logits'])
    same = teacher['logits'].argmax(-1) == student['logits'].argmax(-1)
    kl = np.sum(np.exp(log_p) * (log_p - log_q), -1)
    return {'agreement': float(same.mean()), 'kl_to_teacher': float(kl.mean())}

  return Task(
    loss=loss,
    metrics=metrics,
    gather=('logits', 'label'),
    finalize=finalize,
    references=references,
    compare=compare,
    metric=metric,
    whole=metric == 'macro_f1',
    higher_is_better=True,
    outputs=lambda dataset: {'logits': len(dataset.classes)},
    cards=cards,
    answer=answer,
    hides_labels=True,
    label='class',
  )
