"""Regression and several labels an example: metrics written twice, the same in any batches and padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from kdjax import recipes
from kdjax.errors import KdjaxError
from kdjax.experiment import data_checks, validate_config
from kdjax.input import encode
from kdjax.tasks.multilabel import average_precision, multilabel
from kdjax.tasks.regression import regression
from kdjax.types import DataSet

RNG = np.random.default_rng(0)
NUMBERS = {
  'logits': RNG.normal(size=(40, 1)).astype('f4'),
  'label': (3 * RNG.normal(size=40) + 5).astype('f4'),
}
NUMBERS['label'][:4] = np.nan
LABELS = {'logits': RNG.normal(size=(40, 5)).astype('f4'), 'label': RNG.integers(-1, 2, (40, 5)).astype('i4')}
LABELS['label'][:, 4] = np.where(LABELS['label'][:, 4] > 0, 0, LABELS['label'][:, 4])  # a class of no example
LABELS['label'][:3] = -1
CASES = [
  (regression(), NUMBERS),
  (regression(loss='huber', delta=0.5, offset=5.0, scale=3.0), NUMBERS),
  (multilabel(), LABELS),
]


def batches(arrays, size):
  """Batches of a size, the last one padded with garbage."""
  n = len(arrays['label'])
  for start in range(0, n, size):
    rows = np.arange(start, start + size)
    batch = {k: jnp.asarray(v[rows % n]) for k, v in arrays.items()}
    yield {'logits': batch.pop('logits')}, batch | {'mask': jnp.asarray(rows < n, jnp.float32)}


@pytest.mark.parametrize(('task', 'arrays'), CASES)
@pytest.mark.parametrize('size', [7, 16, 40])
def test_batches_and_padding_change_nothing(task, arrays, size):
  whole = next(batches(arrays, 40))
  expected = {**task.metrics(*whole), 'objective': task.loss(*whole)}
  sums = {}
  for outputs, batch in batches(arrays, size):
    for name, pair in {**task.metrics(outputs, batch), 'objective': task.loss(outputs, batch)}.items():
      sums[name] = sums.get(name, 0) + np.asarray(pair, np.float64)
  for name, (total, count) in expected.items():
    assert sums[name][1] == count
    assert sums[name][0] == pytest.approx(float(total), rel=1e-5)


@pytest.mark.parametrize(('task', 'arrays'), CASES)
def test_gradients_are_finite_and_none_of_what_is_not_known(task, arrays):
  outputs, batch = next(batches(arrays, 40))
  grads = jax.grad(lambda x: task.loss({'logits': x}, batch)[0])(outputs['logits'])
  assert np.isfinite(grads).all() and not grads[:3].any() and grads[5:].any()
  label = jnp.full_like(batch['label'], jnp.nan if task.label == 'number' else -1)
  total, count = task.loss(outputs, {'label': label})
  assert float(total) == float(count) == 0


def test_metrics_of_a_regression():
  task = regression(offset=5.0, scale=3.0, metric='mae')
  known = ~np.isnan(NUMBERS['label'])
  x, y = (NUMBERS['logits'][known, 0] * 3 + 5).astype('f8'), NUMBERS['label'][known].astype('f8')
  metrics = {k: float(s / c) for k, (s, c) in task.metrics(*next(batches(NUMBERS, 40))).items()}
  assert metrics['mse'] == pytest.approx(np.mean((x - y) ** 2), rel=1e-5)
  assert metrics['mae'] == pytest.approx(np.mean(np.abs(x - y)), rel=1e-5)
  assert metrics['loss'] == pytest.approx(metrics['mse'] / 9, rel=1e-5)
  final = task.finalize(NUMBERS)
  assert final['pearson'] == pytest.approx(stats.pearsonr(x, y)[0])
  assert final['spearman'] == pytest.approx(stats.spearmanr(x, y)[0])
  assert final['r2'] == pytest.approx(1 - np.sum((x - y) ** 2) / np.sum((y - y.mean()) ** 2))
  huber = regression(loss='huber', delta=0.5)
  total, count = huber.loss({'logits': jnp.array([[0.2], [2.0]])}, {'label': jnp.zeros(2)})
  assert float(total) == pytest.approx(0.02 + 0.5 * (2 - 0.25)) and count == 2
  assert task.references(NUMBERS, NUMBERS)['median of the training labels'] == pytest.approx(
    np.mean(np.abs(y - np.median(y)))
  )
  assert regression().references(NUMBERS, NUMBERS)['mean of the training labels'] == pytest.approx(y.var())
  same = task.compare(NUMBERS, NUMBERS)
  assert same == {'mae_to_teacher': 0.0, 'correlation_with_teacher': pytest.approx(1)}
  assert task.answer({'logits': np.array([2.0])}, ()) == [('11', 11.0)]
  cards = task.cards({'teacher': NUMBERS}, [{}] * 40, ())
  assert len(cards) == 12 and all(c['truth'] != ('nan',) and c['teacher'] for c in cards)


def slow_average_precision(scores, truth):
  """The mean precision at each right example, of a ranking without equal scores."""
  ranked = truth[np.argsort(-scores)]
  return np.mean([ranked[: i + 1].mean() for i in np.flatnonzero(ranked)])


def test_metrics_of_several_labels():
  task, (logits, label) = multilabel(), (LABELS['logits'], LABELS['label'])
  final = task.finalize(LABELS)
  each = [slow_average_precision(logits[y >= 0, c], y[y >= 0] == 1) for c, y in enumerate(label.T[:4])]
  assert final['map'] == pytest.approx(np.mean(each))
  known, held = label >= 0, logits > 0
  hits, wrong = (known & held & (label == 1)).sum(0), (known & (held != (label == 1))).sum(0)
  assert final['micro_f1'] == pytest.approx(2 * hits.sum() / (2 * hits.sum() + wrong.sum()))
  assert final['macro_f1'] == pytest.approx(np.mean((2 * hits / (2 * hits + wrong))[:4]))
  assert task.references(LABELS, LABELS)['prior of each class'] == pytest.approx(
    np.mean([(y == 1).sum() / (y >= 0).sum() for y in label.T[:4]])
  )
  assert task.compare(LABELS, LABELS) == {'agreement': 1.0, 'kl_to_teacher': 0.0}
  p = 1 / (1 + np.exp(-logits.astype('f8')))
  known_rows = label[3:] >= 0
  bce = -np.where(label[3:] == 1, np.log(p[3:]), np.log(1 - p[3:]))
  rows = [b[k].mean() for b, k in zip(bce, known_rows, strict=True) if k.any()]
  total, count = task.loss(*next(batches(LABELS, 40)))
  assert float(total / count) == pytest.approx(np.mean(rows), rel=1e-5)
  (best, score), *_ = task.answer({'logits': np.array([-1.0, 3.0])}, ('cat', 'dog'))
  assert best == 'dog' and score == pytest.approx(0.9525741)
  cards = task.cards({'student': LABELS}, [{'text': str(i)} for i in range(40)], tuple('abcde'))
  assert len(cards) == 12 and all(set(c['truth'].split(', ')) <= {*'abcde', 'none', '?'} for c in cards)


def test_equal_scores_are_one_threshold():
  assert average_precision(np.zeros(4), np.array([1, 0, 0, 1])) == 0.5
  assert np.isnan(average_precision(np.arange(3.0), np.zeros(3)))


@pytest.mark.parametrize('label', [np.array([0, 2]), np.array([0.5, 1]), np.array([1]), 1, np.eye(2)])
def test_labels_that_are_not_0_and_1_for_each_class(label):
  reader = encode.make_encode(classes=2, label='classes')
  with pytest.raises(KdjaxError, match=r'the task reads 0, 1 or -1 for each class, \[2\]'):
    reader([{'label': label, 'id': 0}])
  assert reader([{'label': np.array([1, -1])}])['label'].tolist() == [[1, -1]]


@pytest.mark.parametrize(
  ('task', 'methods', 'words'),
  [
    ('regression', {'kd': {}}, 'methods.kd compares the scores of several classes.*logit_mse.weight=1'),
    ('regression', {'soft': {'method': 'dkd'}}, 'methods.soft .*--config.methods.soft=None'),
    ('regression', {'logit_mse': {}, 'logit_l1': {}, 'fitnet': {}, 'rkd': {}}, ''),
    ('multilabel', {'multi_label': {}, 'logit_mse': {}}, ''),
  ],
)
def test_losses_that_need_classes(task, methods, words):
  config = recipes.base('x')
  config.task = {'name': task}
  config.methods = methods
  for stage in ('teacher', 'student'):
    config[stage].model = recipes.model('mlp', hidden=(4,))
  if not words:
    return validate_config.recipe(config.to_dict())
  with pytest.raises(KdjaxError, match=words):
    validate_config.recipe(config.to_dict())


@pytest.mark.whole
@pytest.mark.parametrize(
  ('name', 'label', 'classes', 'method'),
  [
    ('regression', lambda i: float(i % 3) / 7, (), 'logit_mse'),
    ('multilabel', lambda i: np.array([i % 2, 1 - i % 2, -1 + i % 3]), ('a', 'b', 'c'), 'multi_label'),
  ],
)
def test_a_whole_experiment(config, experiment, monkeypatch, name, label, classes, method):
  from kdjax.experiment import stages

  def one(i):
    return {'image': RNG.integers(0, 255, (4, 4, 3)).astype(np.uint8), 'label': label(i), 'id': i}

  splits = {s: [one(i) for i in range(8)] for s in ('train', 'validation', 'test')}
  monkeypatch.setattr('kdjax.experiment.load.dataset', lambda *a: DataSet(splits, classes, 'mark'))
  with config.unlocked():
    config.task = {'name': name}
    config.methods = {method: {}}
    for stage in ('teacher', 'student'):
      config[stage].model = recipes.model('mlp', hidden=(4,))
  results = stages.run(experiment('w'))
  assert results['metric'] in results['stages']['student']['others'] or results['stages']['student']['values']
  assert data_checks.READS[{'regression': 'number'}.get(name, 'classes')]
