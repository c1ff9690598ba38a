"""What a classifier does with each class, and how far its confidence can be trusted: counts over a split.

All are counts of the gathered outputs, so that batches and padding change nothing. An example of an unknown
label (-1) counts nowhere.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from kdjax.tasks.classification import calibration_bins

SMALL = 20  # classes up to which the whole confusion matrix is kept
PAIRS = 100  # of confused classes that are kept


def confusion(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(pairs i64 [K, 2] of true and predicted class, their counts i64 [K]) of logits [N, C] and labels [N]."""
  known = labels >= 0
  pairs = np.stack([labels[known].astype(np.int64), logits[known].argmax(-1)], -1)
  return np.unique(pairs, axis=0, return_counts=True)


def measure(gathered: Mapping[str, Sequence[Mapping]], classes: Sequence[str]) -> dict:
  """The entries 'per_class', 'confusion' and 'calibration' of results.json.

  Args:
    gathered: stage -> for each seed 'logits' [N, C] and 'label' [N].
    classes: the names of the C classes.

  Returns:
    'per_class': 'names', 'count' [C] of examples, and by stage for each seed 'right' and 'predicted' [C].
    'confusion': of the student, summed over its 'seeds': 'matrix' [C, C] of true and predicted class, None
    above `SMALL` classes, and 'pairs', (true, predicted, count) of the most confused. 'calibration': by stage
    for each seed the bins of `calibration_bins`.
  """
  c, calibration, by_stage, results = len(classes), {}, {}, {}
  for stage, seeds in gathered.items():
    counted = [confusion(g['logits'], g['label']) for g in seeds]
    by_stage[stage] = {
      'right': [_sums(pairs[:, 0], n * (pairs[:, 0] == pairs[:, 1]), c) for pairs, n in counted],
      'predicted': [_sums(pairs[:, 1], n, c) for pairs, n in counted],
    }
    count = _sums(counted[0][0][:, 0], counted[0][1], c)
    results['per_class'] = {'names': list(classes), 'count': count, 'stages': by_stage}
    calibration[stage] = [
      {k: v.tolist() for k, v in calibration_bins(g['logits'], g['label']).items()} for g in seeds
    ]
    if stage == 'student':
      results['confusion'] = {'seeds': len(seeds), **_confused(counted, c)}
  return results | {'calibration': calibration}


def _sums(classes, counts, c) -> list[int]:
  """[C] sums of counts [K] by class [K]."""
  sums = np.zeros(c, np.int64)
  np.add.at(sums, classes, counts)
  return sums.tolist()


def _confused(counted, c):
  """The whole matrix where it is small, and the pairs of classes that are confused most, these first."""
  pairs, counts = (np.concatenate(x) for x in zip(*counted, strict=True))
  pairs, index = np.unique(pairs, axis=0, return_inverse=True)
  total = np.array(_sums(index.reshape(-1), counts, len(pairs)), np.int64)
  matrix = np.zeros((c, c), np.int64) if c <= SMALL else None
  if matrix is not None:
    matrix[pairs[:, 0], pairs[:, 1]] = total
  wrong = pairs[:, 0] != pairs[:, 1]
  order = np.argsort(-total[wrong], kind='stable')[:PAIRS]
  rows = np.column_stack([pairs[wrong], total[wrong]])[order].tolist()
  return {'matrix': None if matrix is None else matrix.tolist(), 'pairs': rows}
