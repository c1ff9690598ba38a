"""Rows of a .csv, .tsv or .jsonl file, and their cells as texts, file names and splits; see docs/data.md."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdjax.errors import KdjaxError
from kdjax.input import parquet
from kdjax.runtime.files import regular_file
from kdjax.runtime.progress import say

csv.field_size_limit(2**31 - 1)  # 128 kB by default
SEPARATORS = {'.csv': ',', '.tsv': '\t'}
OTHERS = {'\t': 'tabs', ';': 'semicolons', '|': 'vertical bars'}  # of a .csv whose header has no comma
SPLITS = ('train', 'validation', 'test')
ALIASES = {'val': 'validation', 'valid': 'validation', 'dev': 'validation', 'eval': 'validation'}
ALIASES |= {'training': 'train', 'testing': 'test', 'development': 'validation', 'evaluation': 'validation'}
# What pandas reads as a missing value, and '?'; as text, beside empty cells.
MISSING = {'#N/A', '#N/A N/A', '#NA', '-1.#IND', '-1.#QNAN', '-NaN', '-nan', '1.#IND', '1.#QNAN', '<NA>'}
MISSING |= {'N/A', 'NA', 'NULL', 'NaN', 'None', 'n/a', 'nan', 'null', '?'}


def rows(path: Path) -> list[dict]:
  """The rows of a .jsonl, .csv, .tsv or .parquet file, each with its '#', the line that it stands on.

  Raises:
    KdjaxError: if the file cannot be read; it names the line.
  """
  if path.suffix.lower() == '.parquet':
    return parquet.rows(path)
  text = _text(path)
  return list(_cells(path, text) if path.suffix.lower() in SEPARATORS else _objects(path, text))


def _text(path):
  try:
    content = regular_file(path, 'table').read_bytes()
  except (OSError, ValueError) as e:
    raise KdjaxError(f'cannot read the manifest {path} ({e}).') from e
  if content[:2] in (b'\xff\xfe', b'\xfe\xff') or b'\0' in content[:1000]:
    raise KdjaxError(f'{path} is not UTF-8 but UTF-16 or no text: save it as UTF-8.')
  try:
    text = content.decode('utf-8-sig')
  except UnicodeDecodeError as e:
    line = content[: e.start].count(b'\n') + 1
    raise KdjaxError(
      f'{path}, line {line}: the byte 0x{content[e.start]:02x} is not UTF-8 (Latin-1, perhaps): '
      'save it as UTF-8.'
    ) from e
  return text.replace('\r\n', '\n').replace('\r', '\n')


def separator(path: Path, header: str) -> str:
  """The separator of the cells of a .csv or .tsv file, from its first line."""
  usual = SEPARATORS[path.suffix.lower()]
  if usual not in header:
    for other, name in OTHERS.items():
      if other in header and other != usual:
        say(f'{path.name}: cells are separated by {name}.')
        return other
  return usual


def names(path: Path, header: Sequence[str]) -> list[str]:
  """The columns that a header names, without spaces around them.

  Raises:
    KdjaxError: for a name that stands twice.
  """
  columns = [name.strip() for name in header]
  for name in columns:
    if name and columns.count(name) > 1:
      raise KdjaxError(f'{path}: the header has the column {name!r} twice.')
  return columns


def row(where: str, columns: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
  """Column -> cell; empty cells may follow at the end, and columns without a name are left out.

  Raises:
    KdjaxError: for too many or too few cells.
  """
  extra = list(cells[len(columns) :])
  if len(cells) < len(columns) or any(cell.strip() for cell in extra):
    raise KdjaxError(
      f'{where}: {len(cells)} cells, and the header has {len(columns)}'
      + (': put a text with separators in it into "quotes".' if extra else '.')
    )
  return {k: v for k, v in zip(columns, cells, strict=False) if k}


def _cells(path, text):
  header = text.lstrip('\n').partition('\n')[0]
  spaced = re.search(r'[,;]\s+\S', header) is not None
  reader = csv.reader(
    io.StringIO(text, newline=''), delimiter=separator(path, header), strict=True, skipinitialspace=spaced
  )
  columns = None
  try:
    for cells in reader:
      if not any(cell.strip() for cell in cells):
        continue
      if columns is None:
        columns = names(path, cells)
      else:
        yield row(f'{path}, line {reader.line_num}', columns, cells) | {'#': reader.line_num}
  except csv.Error as e:
    raise KdjaxError(f'{path}, line {reader.line_num}: not well quoted ({e}).') from e


def _objects(path, text):
  for number, line in enumerate(text.split('\n'), 1):
    if line.strip():
      yield parse_object(line, f'{path}, line {number}') | {'#': number}


def parse_object(line: str, where: str) -> dict[str, Any]:
  """The JSON object of a line.

  Raises:
    KdjaxError: if it is none, or has a key twice.
  """

  def unique(pairs):
    row = dict(pairs)
    if len(row) < len(pairs):
      raise ValueError('a key stands twice')
    return row

  try:
    row = json.loads(line, object_pairs_hook=unique)
    if isinstance(row, dict):
      return row
    reason = f'but a {type(row).__name__}; a row is one object a line'
  except (ValueError, RecursionError) as e:
    reason = f'({e})'
  raise KdjaxError(f'{where}: not a JSON object {reason}.')


def is_missing(value: Any) -> bool:
  """Whether a cell is empty: None, NaN, or nothing but spaces."""
  return value is None or (isinstance(value, str) and not value.strip()) or (value != value)


def read_text(value: Any, where: str, column: str) -> str:
  """A cell as text; a list of chat messages {'role', 'content'} by a template.

  One message is its content; several are lines of 'role: content'.

  Raises:
    KdjaxError: if it is empty, or neither a text, a number nor messages.
  """
  what = f'{where}: the column {column!r}'
  if is_missing(value):
    raise KdjaxError(f'{what} is empty.')
  if isinstance(value, list) and value and all(isinstance(m, dict) and 'role' in m for m in value):
    for message in value:
      if not isinstance(message.get('content'), str):
        raise KdjaxError(f'{what} has a message whose content is no text.')
    lines = [m['content'] if len(value) == 1 else f'{m["role"]}: {m["content"]}' for m in value]
    value = '\n'.join(lines)
  elif isinstance(value, (list, dict, bool)):
    kind = {list: 'a list', dict: 'an object', bool: 'true or false'}[type(value)]
    raise KdjaxError(f"{what} holds {kind}; kdjax reads a text, or a list of {{'role', 'content'}} messages.")
  text = str(value)
  if not text.isascii():
    try:
      text.encode()
    except UnicodeEncodeError as e:
      raise KdjaxError(f'{what} holds half of a surrogate pair, which is no character ({e.reason}).') from e
  return text


def read_response(value: Any, where: str, column: str) -> str:
  """A response as text: of chat messages the one of the assistant.

  Raises:
    KdjaxError: as `read_text` does, and for other messages.
  """
  if isinstance(value, list) and not (
    len(value) == 1 and isinstance(value[0], dict) and value[0].get('role') == 'assistant'
  ):
    raise KdjaxError(
      f'{where}: the column {column!r} holds a list; kdjax reads a text, or one message '
      "{'role': 'assistant', 'content'}."
    )
  return read_text(value, where, column)


def read_name(value: Any, where: str, column: str) -> str:
  """A cell as the name of a file.

  Raises:
    KdjaxError: if it is empty, or no text.
  """
  if is_missing(value):
    raise KdjaxError(f'{where}: the column {column!r} is empty.')
  if not isinstance(value, (str, int)) or isinstance(value, bool):
    raise KdjaxError(f'{where}: the column {column!r} holds a {type(value).__name__}, and no name of a file.')
  return str(value)


def split_name(value: Any) -> str:
  """'train', 'validation', 'test' or another name; '' for an empty cell."""
  if is_missing(value) or str(value).strip() in MISSING:
    return ''
  name = str(value).strip().lower()
  return ALIASES.get(name, name)


def canonical(splits: Mapping[str, Any]) -> dict[str, Any]:
  """The splits, also under the names 'train', 'validation' and 'test' where they are spelt otherwise."""
  canonical_splits = dict(splits)
  for name, split in splits.items():
    if split_name(name) in SPLITS:
      canonical_splits.setdefault(split_name(name), split)
  return canonical_splits
