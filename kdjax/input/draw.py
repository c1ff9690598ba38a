"""Splits that kdjax draws where a data set has none: always the same, about 80 : 10 : 10."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdjax.errors import KdjaxError, unknown
from kdjax.input.table_file import SPLITS, split_name


def by_chance(key: Any) -> str:
  """80 % train, 10 % validation, 10 % test, by a hash of the key."""
  drawn = zlib.crc32(str(key).encode()) % 10
  return 'test' if drawn == 0 else 'validation' if drawn == 1 else 'train'


def within_classes(marks: Sequence[str], labels: Sequence[Any], parts: Sequence[str] = SPLITS) -> list[str]:
  """The split of each example: of every class a tenth for each of `parts` but 'train', at least one of three.

  Args:
    marks: a hash of the content of each example: those of one content are in one split.
    labels: of each example.
    parts: the splits to draw.
  """
  classes: dict[Any, set] = {}
  for mark, label in zip(marks, labels, strict=True):
    classes.setdefault(label, set()).add(mark)
  split_of: dict[str, str] = {}
  for label in sorted(classes, key=str):
    order = sorted(m for m in classes[label] if m not in split_of)
    n = max(round(len(order) / 10), 1) if len(order) > 2 else 0
    for i, mark in enumerate(order):
      place = i // n if n else len(parts)
      split_of[mark] = 'test' if place == 0 else 'validation' if place == 1 and len(parts) == 3 else 'train'
  return [split_of[mark] for mark in marks]


def named(names: Iterable[str], where: str) -> dict[str, str]:
  """'train', 'validation', 'test' -> the name of such a split among `names`.

  Raises:
    KdjaxError: if two names are of one split, one is of none, or there is no training split.
  """
  name_of: dict[str, str] = {}
  for name in names:
    split = split_name(name)
    if split not in SPLITS:
      raise KdjaxError(f'{where}: {unknown("split", name, SPLITS)}')
    if split in name_of:
      raise KdjaxError(f'{where} has the splits {name_of[split]!r} and {name!r}, both for {split}: keep one.')
    name_of[split] = name
  if 'train' not in name_of:
    raise KdjaxError(
      f'{where} has {", ".join(map(repr, name_of.values()))}, and nothing to train on: call a split train.'
    )
  return name_of


def completed(
  parts: Mapping[str, Sequence[int]], marks: Sequence[str], labels: Sequence[Any]
) -> dict[str, list[int]]:
  """Split -> examples, with a test, and a validation split where the data had no test or none.

  Without a test split the validation split is the test; a tenth of train is held out for what is missing.

  Args:
    parts: split -> indices of its examples.
    marks: of each example, see `within_classes`.
    labels: of each example.
  """
  result = {split: list(rows) for split, rows in parts.items()}
  if 'test' not in result and 'validation' in result:
    result['test'] = result.pop('validation')
  missing = tuple(s for s in SPLITS if s not in result or s == 'train')
  if len(missing) > 1:
    rows = result['train']
    drawn = within_classes([marks[i] for i in rows], [labels[i] for i in rows], missing)
    drawn = drawn if 'test' in missing else ['validation' if s == 'test' else s for s in drawn]
    result |= {split: [i for i, s in zip(rows, drawn, strict=True) if s == split] for split in missing}
  return {s: result[s] for s in SPLITS if result.get(s) or s != 'validation'}
