"""Few labels, `data.labels` of a recipe: those that the student and its baseline may see."""

from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input.encode import label_mask
from kdjax.input.splits import InMemorySplit
from kdjax.input.tokenizer import NOTHING


def few_labels(source: Any, share: float, seed: int, kind: str = 'class') -> tuple[Any, Any]:
  """(the source with only a share of its labels, the others -1; the examples of that share).

  The share is drawn within each class, at least one example of each. With a share of 1 those without a label
  are left out of the second, where the source is held in memory: a batch of them would teach nothing.

  Of responses it is a share of the groups, such as photos with several captions. The others, and those once
  more, are then in the first without a response, one example a group: `written` fills it in.

  Args:
    source: a split.
    share: of the labels.
    seed: of the draw.
    kind: of the labels that the task reads, see `types.Task`.

  Raises:
    KdjaxError: if the labels cannot be held in memory, or are no classes.
  """
  if share >= 1:
    return source, _labelled(source, kind)
  if isinstance(source, InMemorySplit) and 'text/target' in source.arrays:
    return _few_responses(source, share, seed)
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


def _labelled(source: Any, kind: str) -> Any:
  """The examples with a label; the source itself where all have one, none has, or it is not in memory."""
  labels = source.arrays.get('label') if kind and isinstance(source, InMemorySplit) else None
  if labels is None:
    return source
  known = label_mask(kind, labels)
  whole = known.ndim != 1 or known.all() or not known.any()
  return source if whole else InMemorySplit(source.take(np.flatnonzero(known)))


def _few_responses(source: InMemorySplit, share: float, seed: int) -> tuple[Any, Any]:
  """`few_labels` of responses; an example without its own has an id of its own."""
  rows = np.arange(len(source))
  groups, first = np.unique(source.arrays.get('group', rows), return_index=True)
  count = max(round(share * len(groups)), 1)
  chosen = np.random.default_rng(seed).choice(groups, count, replace=False)
  labelled = np.flatnonzero(np.isin(source.arrays.get('group', rows), chosen))
  hidden = source.take(first)
  response = hidden['text/response']
  hidden |= {
    'text': np.where(response, 0, hidden['text']),
    'text/mask': hidden['text/mask'] & ~response,
    'text/response': np.zeros_like(response),
    'text/target': np.full_like(hidden['text/target'], NOTHING),
    'id': (np.max(source.arrays['id']) + 1 + np.arange(len(first))).astype(np.int32),
  }
  own = source.take(labelled)
  joined = {k: np.concatenate([own[k], hidden[k]]) for k in own}
  return InMemorySplit(joined), InMemorySplit(own)
