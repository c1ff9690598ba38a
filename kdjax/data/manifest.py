"""Your own files: a JSONL or CSV table, a row an example, columns for image, text, label, response, split."""

import csv
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdjax.errors import KdjaxError, unknown
from kdjax.files import regular_file
from kdjax.sources import fingerprint, read_image
from kdjax.types import DataSet

SPLITS = ('train', 'validation', 'test')
ALIASES = {'val': 'validation', 'valid': 'validation', 'dev': 'validation'}


def rows(path: Path) -> list[dict]:
  """The rows of a .jsonl or .csv file, each with its '#', the line that it stands on.

  Raises:
    KdjaxError: if the file cannot be read; it names the line.
  """
  try:
    text = regular_file(path, 'table').read_text(encoding='utf-8-sig')
  except (OSError, UnicodeDecodeError) as e:
    raise KdjaxError(f'cannot read the manifest {path} ({e}).') from e
  if path.suffix == '.csv':
    reader = csv.DictReader(io.StringIO(text, newline=''))
    return [{k: v for k, v in row.items() if k} | {'#': reader.line_num} for row in reader]
  made = []
  for number, line in enumerate(text.split('\n'), 1):
    if line.strip():
      try:
        made.append(dict(json.loads(line)) | {'#': number})
      except (ValueError, TypeError) as e:
        raise KdjaxError(f'{path}, line {number}: not a JSON object ({e}).') from e
  return made


def by_chance(row: Mapping, columns: Mapping[str, str]) -> str:
  """80 % train, 10 % validation, 10 % test: always the same, and one image stands in one split."""
  what = row.get(columns['image']) or row.get(columns['text'])
  drawn = zlib.crc32(str(what).encode()) % 10
  return 'test' if drawn == 0 else 'validation' if drawn == 1 else 'train'


class Rows(Sequence):
  """Examples of some rows, with the images read when they are asked for."""

  def __init__(self, path: Path, table: Sequence[Mapping], columns: Mapping, classes: Mapping[str, int]):
    self.path, self.table, self.columns, self.classes = path, table, columns, classes

  def __len__(self) -> int:
    return len(self.table)

  def __getitem__(self, index):
    row = self.table[index]
    where = f'{self.path}, line {row["#"]}'
    example = {'id': row['#']}
    for key, column in self.columns.items():
      value = row.get(column)
      if key == 'label':
        example[key] = self.label(value, where)
      elif value in (None, ''):
        raise KdjaxError(f'{where}: the column {column!r} is empty.')
      elif key == 'image':
        example[key] = read_image(self.path.parent / str(value), where)
      else:
        example[key] = str(value)
    return example

  def label(self, value, where) -> int:
    if value in (None, ''):
      return -1
    if str(value) not in self.classes:
      raise KdjaxError(f'{where}: {unknown("label", str(value), self.classes)}')
    return self.classes[str(value)]


def manifest(
  *, path: str = '', columns: Mapping[str, str] | None = None, classes: tuple[str, ...] = ()
) -> DataSet:
  """Reads a manifest; image files are named relative to its folder.

  The columns 'image', 'text' and 'split' may be absent, but not image and text both. Rows without
  a split are shared out by image or text, about 80 : 10 : 10. An empty label is one not known. A table
  without labels may have a 'response' to each text, for language models; one with labels too if it is named.

  Args:
    path: a .jsonl or .csv file.
    columns: 'image', 'text', 'label', 'response' or 'split' -> the name that the column has instead.
    classes: their names in order; by default the labels of the training rows, sorted.

  Raises:
    KdjaxError: if the file, a column, an image or a label is not what it should be.
  """
  file = Path(path)
  if not path:
    raise KdjaxError('which manifest? Set --config.data.path=FILE (.jsonl or .csv).')
  table = rows(file)
  if not table:
    raise KdjaxError(f'the manifest {file} has no rows.')
  present = set().union(*table) - {'#'}
  names = {k: k for k in ('image', 'text', 'label', 'split')} | dict(columns or {})
  for key, name in dict(columns or {}).items():
    if name not in present:
      raise unknown(f'column for {key!r} of {file}', name, present)
  split = names.pop('split')
  used = {k: c for k, c in names.items() if c in present}
  if 'label' not in used and 'text' in used and 'response' in present:
    used.setdefault('response', 'response')
  if 'response' in used:
    used.pop('label', None)
  if not {'image', 'text'} & used.keys() or not {'label', 'response'} & used.keys():
    raise KdjaxError(
      f'{file} has the columns {", ".join(sorted(present))}; it needs one for labels and one for images or '
      'texts: name yours with data.columns.label, data.columns.image, data.columns.text; a language model '
      'needs a text and a response, data.columns.response.'
    )
  parts = {s: [] for s in SPLITS}
  for row in table:
    name = str(row.get(split) or by_chance(row, names)).lower()
    name = ALIASES.get(name, name)
    if name not in parts:
      raise KdjaxError(f'{file}, line {row["#"]}: {unknown("split", name, SPLITS)}')
    parts[name].append(row)
  if not classes:
    labels = [row.get(used['label']) for row in parts['train']] if 'label' in used else []
    found = {str(value) for value in labels if value not in (None, '')}
    numbers = all(f.lstrip('-').isdigit() for f in found)
    classes = tuple(sorted(found, key=int if numbers else str))
  places = {name: i for i, name in enumerate(classes)}
  splits = {s: Rows(file, part, used, places) for s, part in parts.items() if part or s != 'validation'}
  images = (file.parent / str(row.get(used['image'])) for row in table if 'image' in used)
  mark = fingerprint(file.read_bytes(), classes)
  return DataSet(splits, tuple(classes), mark, files=(file, *images))
