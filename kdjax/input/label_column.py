"""The labels of a table: one class, one number, or several classes a row."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from kdjax.errors import KdjaxError, unknown
from kdjax.input import class_labels
from kdjax.input.table_file import MISSING, is_missing
from kdjax.runtime.progress import say

Kind = Literal['class', 'number', 'classes', 'none']  # that the task reads
SEPARATORS = '|;,'  # between the classes of a cell, the first that stands in some cell


class Labels(Protocol):
  """How the cells of a label column are read."""

  @property
  def classes(self) -> tuple[str, ...]: ...

  def place(self, value: Any, where: str) -> Any:
    """The label of a cell, as `types.Task` has it."""
    ...


class Numbers(NamedTuple):
  """One number a cell."""

  classes: tuple[str, ...] = ()

  def place(self, value: Any, where: str) -> np.float32:
    """The number, NaN where the cell is empty.

    Raises:
      KdjaxError: for anything else.
    """
    if is_missing(value) or (isinstance(value, str) and value.strip() in MISSING):
      return np.float32(np.nan)
    try:
      number = float('' if isinstance(value, bool) else value)
    except (TypeError, ValueError) as e:
      raise KdjaxError(
        f'{where}: the label {str(value)[:40]!r} is no number; for classes set task.name.'
      ) from e
    if not abs(number) <= 1e30:
      raise KdjaxError(f'{where}: the label is {number:g}; kdjax reads finite numbers up to 1e30.')
    return np.float32(number)


class Several(NamedTuple):
  """Several classes a cell: 'cat|dog', ['cat', 'dog'], or {'cat': 1, 'dog': 0}."""

  classes: tuple[str, ...]
  separator: str

  def place(self, value: Any, where: str) -> np.ndarray:
    """i32 [C] of 0 and 1, all -1 where the cell is empty. An empty list has no class.

    Raises:
      KdjaxError: for a name that is none of the classes.
    """
    held = names(value, self.separator, where)
    if held is None:
      return np.full(len(self.classes), -1, np.int32)
    label = np.zeros(len(self.classes), np.int32)
    for name in held:
      if name not in self.classes:
        raise KdjaxError(
          f'{where}: {unknown("label", name, self.classes)} These are the labels of the training '
          'rows: name all classes in data.options.classes.'
        )
      label[self.classes.index(name)] = 1
    return label


def names(value: Any, separator: str, where: str) -> list[str] | None:
  """The classes of a cell, None where it is empty.

  Raises:
    KdjaxError: for what is no list of names.
  """
  if isinstance(value, str) and value.strip().startswith('['):
    try:
      value = json.loads(value)
    except (ValueError, RecursionError) as e:
      raise KdjaxError(f'{where}: the labels {value[:40]!r} are no list in JSON ({e}).') from e
  if isinstance(value, list | tuple | np.ndarray):
    if any(isinstance(v, list | dict | float) or v is None for v in value):
      raise KdjaxError(f'{where}: the labels are {str(value)[:60]}; kdjax reads a list of names.')
    return [str(v) for v in value]
  if isinstance(value, dict):
    raise KdjaxError(f'{where}: the labels are an object; kdjax reads a list of names, or cat{separator}dog.')
  if is_missing(value):
    return None
  return [part.strip() for part in str(value).split(separator) if part.strip()]


def read(
  rows: Mapping[str, Sequence[tuple[Any, str]]], kind: Kind, drawn: bool, classes: Sequence[str] = ()
) -> Labels:
  """The labels of a column, for a task that reads this kind.

  Args:
    rows: split -> (cell, where it stands).
    kind: 'number'; 'classes', several a cell; else one class a cell.
    drawn: whether the splits were drawn by kdjax, so that a class may stand in any.
    classes: their names in order; by default those of the training rows, sorted.

  Raises:
    KdjaxError: for a cell that cannot be read.
  """
  if kind == 'number':
    return Numbers()
  if kind != 'classes':
    return class_labels.read_labels(rows, drawn=drawn, classes=classes)
  cells = [(value, where) for part in rows.values() for value, where in part]
  texts = [v for v, _ in cells if isinstance(v, str) and not v.strip().startswith('[')]
  separator = next((s for s in SEPARATORS if any(s in v for v in texts)), SEPARATORS[0])
  if separator != SEPARATORS[0]:
    say(f'labels: several of a row are separated by {separator!r}.')
  known = cells if drawn else rows.get('train', ())
  held = {name for value, where in known for name in names(value, separator, where) or ()}
  order = tuple(map(str, classes)) or tuple(
    sorted(held, key=int) if held and all(class_labels.WHOLE.fullmatch(n) for n in held) else sorted(held)
  )
  class_labels.say_alike(order)
  return Several(order, separator)
