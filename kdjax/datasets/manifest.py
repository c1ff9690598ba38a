"""Your own files: a JSONL or CSV table, a row an example, columns for image, text, label, response, split."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdjax.errors import KdjaxError, unknown
from kdjax.input import class_labels
from kdjax.input.images import read_image
from kdjax.input.table_file import SPLITS, read_name, read_response, read_text, rows, split_name
from kdjax.options import Name
from kdjax.runtime.files import fingerprint
from kdjax.runtime.progress import say
from kdjax.types import DataSet

READERS = {'text': read_text, 'response': read_response, 'image': read_name}


def by_chance(row: Mapping, columns: Mapping[str, str]) -> str:
  """80 % train, 10 % validation, 10 % test: always the same, and one image is in one split."""
  key = row.get(columns['image']) or row.get(columns['text'])
  drawn = zlib.crc32(str(key).encode()) % 10
  return 'test' if drawn == 0 else 'validation' if drawn == 1 else 'train'


class Rows(Sequence):
  """Examples of some rows, with the images read on demand."""

  def __init__(
    self, path: Path, table: Sequence[Mapping], columns: Mapping, labels: class_labels.Labels | None
  ):
    self.path, self.table, self.columns, self.labels = path, table, columns, labels

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
      else:
        example[key] = READERS[key](value, where, column)
    if 'image' in example:
      example['image'] = read_image(self.path.parent / example['image'], where)
    return example

  def label(self, value, where) -> int:
    assert self.labels is not None  # a table with a label column has them
    return self.labels.place(value, where)


def manifest(
  *, path: str = '', columns: Mapping[str, str] | None = None, classes: tuple[Name, ...] = ()
) -> DataSet:
  """Reads a manifest; image files are named relative to its folder. docs/data.md lists how cells are read.

  The columns 'image', 'text' and 'split' may be absent, but not image and text both. Rows without
  a split are shared out by image or text, about 80 : 10 : 10. An empty label is one not known. A table
  without labels may have a 'response' to each text, for language models; one with labels too if it is named.

  Args:
    path: a .jsonl, .csv or .tsv file.
    columns: 'image', 'text', 'label', 'response' or 'split' -> the name that the column has instead.
    classes: their names in order; by default the labels of the training rows, sorted; of all rows where
      some have no split.

  Raises:
    KdjaxError: if the file, a column, an image or a label is not what it should be.
  """
  file = Path(path)
  if not path:
    raise KdjaxError('which manifest? Set --config.data.path=FILE (.jsonl, .csv or .tsv).')
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
  parts, drawn = {s: [] for s in SPLITS}, 0
  for row in table:
    name = split_name(row.get(split))
    drawn += not name
    name = name or by_chance(row, names)
    if name not in parts:
      raise KdjaxError(f'{file}, line {row["#"]}: {unknown("split", name, SPLITS)}')
    parts[name].append(row)
  if 0 < drawn < len(table):
    say(f'{file.name}: {drawn:,} of {len(table):,} rows have no {split!r}, and are shared out by chance.')
  labels = None
  if 'label' in used:
    cells = {
      s: [(row.get(used['label']), f'{file}, line {row["#"]}, column {used["label"]!r}') for row in part]
      for s, part in parts.items()
    }
    labels = class_labels.read_labels(cells, drawn=drawn > 0, classes=classes)
    classes = labels.classes
  splits = {s: Rows(file, part, used, labels) for s, part in parts.items() if part or s != 'validation'}
  images = (file.parent / str(row.get(used['image'])) for row in table if 'image' in used)
  mark = fingerprint(file.read_bytes(), tuple(classes))
  return DataSet(splits, tuple(classes), mark, files=(file, *images))
