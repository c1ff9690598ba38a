"""The labels of a data set that is in memory or has random access: whole numbers, texts, one-hot, numbers."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import guess
from kdjax.input.examples import column, plain
from kdjax.runtime.progress import say


def labels_of(labelled, label, classes, prefix) -> tuple[Callable | None, tuple[str, ...]]:
  """(a function of a label, or None where they stay as they are; the names of the classes).

  Args:
    labelled: split -> (its examples, the name of the label in them).
    label: the kind that the task reads.
    classes: their names, () where they are not known.
    prefix: of messages.

  Raises:
    KdjaxError: for labels that are no classes.
  """
  first = np.asarray(plain(labelled['train'][0][0][labelled['train'][1]]))
  if label == 'number':
    return lambda value: np.asarray(value, np.float32).reshape(() if np.size(value) == 1 else -1), ()
  if label == 'classes':
    if first.ndim != 1:
      raise KdjaxError(
        f'{prefix}a label is {guess.shown(first)}; the task reads 0, 1 or -1 for each class, [C].'
      )
    return None, tuple(classes or map(str, range(len(first))))
  train = [_one(plain(y), prefix) for y in column(*labelled['train'])]
  if all(isinstance(y, str) for y in train):
    names = tuple(classes or sorted({y for y in train if y}))
    places = {name: i for i, name in enumerate(names)} | {'': -1}

    def place(value):
      name = str(_one(value, prefix))
      if name not in places:
        raise KdjaxError(f'{prefix}the label {name!r} is none of the training labels: name all in classes.')
      return places[name]

    return place, names
  if not all(isinstance(y, int) for y in train):
    raise KdjaxError(f'{prefix}labels are numbers such as {train[0]!r}: for these set task.name=regression.')
  others = (pair for split, pair in labelled.items() if split != 'train')
  every = [*train, *(_one(plain(y), prefix) for pair in others for y in column(*pair))]
  if min(every) < -1:
    raise KdjaxError(
      f'{prefix}a label is {min(every)}; classes are whole numbers from 0, -1 for one not known.'
    )
  names = tuple(map(str, classes or range(max(every) + 1)))
  if missing := sorted(set(range(len(names))) - set(train))[:5]:
    say(f'warning: {prefix}no training example has the class {", ".join(names[i] for i in missing)}.')
  return lambda value: _one(value, prefix), names


def _one(value: Any, prefix: str) -> Any:
  """A label as int or str; of one-hot the class."""
  array = np.asarray(value)
  if array.ndim and array.size > 1:
    if array.ndim == 1 and np.isin(array, (0, 1)).all() and array.sum() == 1:
      return int(array.argmax())
    raise KdjaxError(
      f'{prefix}a label is {guess.shown(value)}; for several classes set task.name=multilabel.'
    )
  item = array.reshape(-1)[0].item()
  if isinstance(item, float):
    return int(item) if item.is_integer() else -1 if item != item else item
  return int(item) if isinstance(item, bool) else item


def marks(source, name, place):
  """(a mark, a label) of each example, to draw splits by: within classes, in the order of a hash."""
  marks = [hashlib.blake2b(str(i).encode(), digest_size=8).hexdigest() for i in range(len(source))]
  if not place or not name:
    return marks, [''] * len(source)
  return marks, [str(place(plain(y))) for y in column(source, name)]
