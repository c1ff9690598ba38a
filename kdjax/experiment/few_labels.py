"""Few labels, `data.labels` of a recipe: those that the student and its baseline may see."""

from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input.splits import InMemorySplit


def few_labels(source: Any, share: float, seed: int) -> tuple[Any, Any]:
  """(the source with only a share of its labels, the others -1; the examples of that share).

  The share is drawn within each class, at least one example of each.

  Raises:
    KdjaxError: if the labels cannot be held in memory, or are no classes.
  """
  if share >= 1:
    return source, source
  labels = source.arrays.get('label') if isinstance(source, InMemorySplit) else None
  if labels is None or labels.ndim != 1:
    raise KdjaxError('data.labels below 1 needs one class label an example and data that fit in memory.')
  rng, labelled = np.random.default_rng(seed), []
  if not np.any(labels >= 0):
    raise KdjaxError('data.labels is below 1, and no training example has a label: leave it at 1.')
  for label in np.unique(labels[labels >= 0]):
    rows = np.flatnonzero(labels == label)
    labelled.append(rng.choice(rows, max(round(share * len(rows)), 1), replace=False))
  labelled = np.sort(np.concatenate(labelled))
  masked = np.full_like(labels, -1)
  masked[labelled] = labels[labelled]
  transfer_set = InMemorySplit(source.arrays | {'label': masked})
  return transfer_set, InMemorySplit(transfer_set.take(labelled))
