"""Counts by class and bins of confidence: against counts by hand, whatever the order of the examples."""

import numpy as np
import pytest

from kdjax.evaluation import class_results
from kdjax.tasks.classification import calibration_bins, expected_calibration_error


def seed(classes, n=60, key=0):
  rng = np.random.default_rng(key)
  return {'logits': rng.normal(size=(n, classes)).astype(np.float32), 'label': rng.integers(-1, classes, n)}


@pytest.mark.parametrize('classes', [3, class_results.SMALL + 1])
def test_the_counts_are_those_by_hand(classes):
  names = [f'class {i}' for i in range(classes)]
  gathered = {'teacher': [seed(classes)], 'student': [seed(classes), seed(classes)]}
  gathered['student'][1]['logits'] = seed(classes, key=1)['logits']
  measured = class_results.measure(gathered, names)
  matrix = np.zeros((2, classes, classes), int)
  for i, one in enumerate(gathered['student']):
    for logits, label in zip(one['logits'], one['label'], strict=True):
      if label >= 0:
        matrix[i, label, logits.argmax()] += 1
  per_class = measured['per_class']
  assert per_class['names'] == names and per_class['count'] == matrix[0].sum(1).tolist()
  student = per_class['stages']['student']
  assert student['right'] == [m.diagonal().tolist() for m in matrix]
  assert student['predicted'] == [m.sum(0).tolist() for m in matrix]
  confused = measured['confusion']
  assert confused['seeds'] == 2
  assert confused['matrix'] == (matrix.sum(0).tolist() if classes == 3 else None)
  counts = [n for _, _, n in confused['pairs']]
  assert counts == sorted(counts, reverse=True) and all(t != p for t, p, _ in confused['pairs'])
  assert all(n == matrix[:, t, p].sum() for t, p, n in confused['pairs'])
  assert len(confused['pairs']) <= class_results.PAIRS


def test_the_bins_hold_every_labelled_example_once():
  one = seed(4, 200)
  bins = calibration_bins(**{'logits': one['logits'], 'labels': one['label']}, bins=10)
  known = one['label'] >= 0
  p = np.exp(one['logits'][known] - np.log(np.exp(one['logits'][known]).sum(-1, keepdims=True)))
  assert bins['count'].sum() == known.sum()
  assert bins['right'].sum() == (p.argmax(-1) == one['label'][known]).sum()
  assert bins['confidence'].sum() == pytest.approx(p.max(-1).sum())
  halves = [calibration_bins(one['logits'][i::2], one['label'][i::2], 10) for i in (0, 1)]
  for key, whole in bins.items():
    np.testing.assert_allclose(sum(half[key] for half in halves), whole)
  inside = (p.max(-1) >= 0.3) & (p.max(-1) < 0.4)
  assert bins['count'][3] == inside.sum()
  error = expected_calibration_error(one['logits'], one['label'], 10)
  assert error == pytest.approx(np.abs(bins['right'] - bins['confidence']).sum() / known.sum())


def test_a_split_without_labels_counts_nothing():
  one = seed(3) | {'label': np.full(60, -1)}
  measured = class_results.measure({'student': [one]}, ['a', 'b', 'c'])
  assert measured['per_class']['count'] == [0, 0, 0] and measured['confusion']['pairs'] == []
  assert np.sum(measured['confusion']['matrix']) == 0
