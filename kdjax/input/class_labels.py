"""Class labels of a table: which cells name the same class, and which are missing; see docs/data.md."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdjax.errors import KdjaxError, unknown
from kdjax.input.table_file import MISSING, is_missing
from kdjax.runtime.progress import say

NUMBER = re.compile(r'[+-]?\d+(\.\d*)?|[+-]?\.\d+', re.ASCII)
WHOLE = re.compile(r'-?\d+', re.ASCII)
SHOWN = 5  # names a line


class Labels(NamedTuple):
  """How the cells of a label column are read.

  Attributes:
    classes: the names in order.
    places: a cell as text -> its place in `classes`, -1 for a label that is not known.
  """

  classes: tuple[str, ...]
  places: Mapping[str, int]

  def place(self, value: Any, where: str) -> int:
    """The class of a cell.

    Raises:
      KdjaxError: for a label that is none of the classes.
    """
    spelling = spell(value, where)
    if spelling not in self.places:
      raise KdjaxError(
        f'{where}: {unknown("label", spelling, self.classes)} These are the labels of the training '
        'rows: name all classes in data.options.classes.'
      )
    return self.places[spelling]


def spell(value: Any, where: str) -> str:
  """A cell as text, '' where it is empty.

  Raises:
    KdjaxError: for a list or an object.
  """
  if is_missing(value):
    return ''
  if isinstance(value, (list, dict)):
    kind = 'a list' if isinstance(value, list) else 'an object'
    raise KdjaxError(f'{where}: the label is {kind}; kdjax reads one class a row.')
  return str(value)


def _value(spelling):
  """The same for all spellings of a class: the value of a number, else the spelling."""
  text = spelling.strip()
  if not NUMBER.fullmatch(text):
    return spelling
  number = float(text)
  return int(text.partition('.')[0]) if number.is_integer() else number  # all digits of a large one


def _name(spellings: Counter, value: Any) -> str:
  return next(iter(spellings)) if len(spellings) == 1 else str(value)


def read_labels(
  rows: Mapping[str, Sequence[tuple[Any, str]]], drawn: bool, classes: Sequence[str] = ()
) -> Labels:
  """The classes of a table's label column, and what each spelling stands for.

  '3', 3, 3.0 and '03' are one class. Empty cells, NaN and null are not known, and neither are the words of
  `table_file.MISSING` and -1 unless `classes` names them; -1 is a class beside 1 alone and beside other
  negative numbers.

  Args:
    rows: split -> (cell, where it stands).
    drawn: whether the splits were drawn by kdjax, so that a class may stand in any.
    classes: their names in order; by default those of the training rows, sorted.

  Raises:
    KdjaxError: for a list or an object, true and false beside 1 and 0, and a -1 that may be either.
  """
  counts = {split: Counter(spell(v, where) for v, where in cells) for split, cells in rows.items()}
  booleans = any(isinstance(value, bool) for cells in rows.values() for value, _ in cells)
  total = sum(counts.values(), Counter())
  absent = {''} | {s for s in total if s.strip() in MISSING or _value(s) == -1}
  if classes:
    absent -= set(map(str, classes))
  elif any(_value(s) == -1 for s in absent) and _is_class(counts, absent):
    absent = {s for s in absent if _value(s) != -1}
  known = total if drawn else counts.get('train', Counter())
  known = Counter({s: n for s, n in known.items() if s not in absent})
  if booleans and {'0', '1'} & {str(_value(s)) for s in known}:
    raise KdjaxError('the labels are true or false in some rows and 1 or 0 in others: write them in one way.')
  groups = defaultdict(Counter)
  for spelling, n in known.items():
    groups[_typed_value(spelling, booleans)][spelling] += n
  if classes:
    names = tuple(map(str, classes))
    if twice := [name for name, n in Counter(names).items() if n > 1]:
      raise KdjaxError(f'data.options.classes names {twice[0]!r} twice.')
  else:
    named = {_name(spellings, value): value for value, spellings in groups.items()}
    numbers = all(WHOLE.fullmatch(name) for name in named)
    names = tuple(sorted(named, key=named.__getitem__ if numbers else str))
  places = _places(names, total, absent, booleans)
  _print_readings(names, places, groups, total, absent, counts, bool(classes))
  return Labels(names, places)


def _typed_value(spelling, booleans):
  """`_value`, where 'true' and 'false' as text equal those of JSON."""
  text = spelling.strip().lower()
  return text.capitalize() if booleans and text in ('true', 'false') else _value(spelling)


def _places(names, total, absent, booleans):
  """Spelling -> index of its class; a spelling that is a name is that class."""
  values = {}
  for i, name in enumerate(names):
    values.setdefault(_typed_value(name, booleans), i)
  places = {name: i for i, name in enumerate(names)}
  for spelling in total:
    if spelling in absent:
      places[spelling] = -1
    elif spelling not in places and (value := _typed_value(spelling, booleans)) in values:
      places[spelling] = values[value]
  return places


def _is_class(counts, absent):
  """Whether -1 is a class, of labels that are all whole numbers."""
  values = {split: {_value(s): n for s, n in c.items() if s not in absent} for split, c in counts.items()}
  every = set().union(*values.values())
  if not all(isinstance(v, int) for v in every):
    return False
  if any(v < -1 for v in every) or every == {1}:
    return True
  if every != {0, 1}:
    return False
  unclear = any(
    any(_value(s) == -1 for s in c) and values[split] for split, c in counts.items() if split != 'train'
  )
  if unclear:
    raise KdjaxError(
      "the labels are -1, 0 and 1: set data.options.classes to ('-1', '0', '1') where -1 is a class, or to "
      "('0', '1') where it stands for a label that is not known."
    )
  return False


def say_alike(names: Sequence[str]) -> None:
  """Prints the classes whose names are nearly alike."""
  alike = defaultdict(list)
  for name in names:
    alike[' '.join(unicodedata.normalize('NFKC', name).casefold().split())].append(name)
  if pairs := [c for c in alike.values() if len(c) > 1]:
    listed = ', '.join(' and '.join(map(repr, c)) for c in pairs[:SHOWN])
    say(f'warning: classes that differ by case or spaces alone, and are kept apart: {listed}.')


def _print_readings(names, places, groups, total, absent, counts, named):
  """Prints a line for each reading that may not be the intended one."""
  if unlabelled := {s: total[s] for s in sorted(absent) if s.strip() and total[s]}:
    listed = ', '.join(f'{word!r} ({n:,})' for word, n in list(unlabelled.items())[:SHOWN])
    say(f'labels read as not known: {listed}; where one is a class, name all in data.options.classes.')
  merged = [sorted(c) for c in groups.values() if len(c) > 1]
  if merged:
    listed = ', '.join(' = '.join(map(repr, c[:SHOWN])) for c in merged[:SHOWN])
    say(f'labels read as one class: {listed}.')
  say_alike(names)
  trained = {places[s] for s in counts.get('train', ()) if s in places}
  untrained = [name for i, name in enumerate(names) if i not in trained]
  if untrained and trained - {-1}:
    listed = f'{", ".join(map(repr, untrained[:SHOWN]))}{" …" * (len(untrained) > SHOWN)}'
    say(f'warning: no training row has the {"class" if len(untrained) == 1 else "classes"} {listed}.')
