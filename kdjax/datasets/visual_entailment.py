"""Visual entailment: does a photo say that a sentence is true, that it is false, or neither?"""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.input import images, table_file
from kdjax.runtime import files
from kdjax.types import DataSet

CLASSES = ('entailment', 'neutral', 'contradiction')
TABLES = {'train': 'esnlive_train.csv', 'validation': 'esnlive_dev.csv', 'test': 'esnlive_test.csv'}
COLUMNS = {'image': 'Flickr30kID', 'text': 'hypothesis', 'label': 'gold_label'}
SUFFIXES = '.jpg', '.jpeg', '.png'
ROW = {'image': str, 'text': str, 'label': str}


class Row(NamedTuple):
  image: str
  text: str
  label: str


def read_json(path: Path) -> list[Row]:
  """The rows of a .json list of dicts with 'image', 'text' and 'label'.

  Raises:
    KdjaxError: if it is something else.
  """
  rows = files.read_json(path, [ROW], 'it is a list of dicts with image, text and label')
  return [_checked(Row(row['image'], row['text'], row['label']), path, i) for i, row in enumerate(rows, 1)]


def read_csv(path: Path) -> list[Row]:
  """The rows of a table of e-SNLI-VE, with the columns `COLUMNS`; a photo is named with or without .jpg.

  Raises:
    KdjaxError: if it lacks a column, or a label is none of the three.
  """
  table = table_file.rows(path)
  for column in COLUMNS.values():
    if not table or column not in table[0]:
      raise KdjaxError(f'{path} has no column {column!r}, or no row.')
  rows = []
  for cells in table:
    image, text, label = (cells[column] for column in COLUMNS.values())
    row = Row(image if image.endswith('.jpg') else f'{image}.jpg', text, label)
    rows.append(_checked(row, path, cells['#']))
  return rows


def _checked(row, path, number):
  if row.label not in CLASSES:
    raise KdjaxError(f'{path}, row {number}: the label is {row.label!r}; it is one of {", ".join(CLASSES)}.')
  return row


class Hypotheses(Sequence):
  """Sentences, each with its photo; `photos` reads one by its name."""

  def __init__(self, rows: Sequence[Row], photos: Callable[[str], Any], numbers: Mapping[str, int]):
    self.rows, self.photos, self.numbers = rows, photos, numbers

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index):
    row = self.rows[int(index)]
    label, group = CLASSES.index(row.label), self.numbers[row.image]
    return {
      'image': self.photos(row.image),
      'text': row.text,
      'label': label,
      'group': group,
      'id': int(index),
    }


def _of_flickr8k(rows: Iterable[Row], data_dir: str | None) -> tuple[dict[str, tuple], DataSet]:
  """(name -> (source, number) of the photos that the rows name, the data set)."""
  source, wanted = registry.make('data', 'flickr8k', {'data_dir': data_dir}), {row.image for row in rows}
  places = {}
  for split in source.splits.values():
    for i in range(len(split.photos)):
      name = split.photos[i]['name']
      if name in wanted:
        places[name] = split.photos, i
  return places, source


def visual_entailment(*, data_dir: str | None = None, path: str = '') -> DataSet:
  """`image`, `text` and one of entailment, neutral and contradiction; 'group' is the photo.

  Of e-SNLI-VE (Do et al., 2004.03744), whose sentences are of SNLI. Rows of photos that are missing are left
  out.

  Args:
    path: a folder of esnlive_train.csv, esnlive_dev.csv and esnlive_test.csv and the photos of Flickr30k, at
      any depth; or a .json list of dicts with 'image', 'text' and 'label' about photos of Flickr8k, which is
      split by photo, a quarter for the test and an eighth for validation.
    data_dir: where TFDS keeps flickr8k, for a .json.

  Raises:
    KdjaxError: if a file is missing or of another form, or no photo of its rows is there.
  """
  root = Path(path)
  if not path or not root.exists():
    raise KdjaxError(
      'visual_entailment: set --config.data.path to the folder of esnlive_*.csv and photos, or to a .json.'
    )
  named: tuple[Path, ...] = (root,)
  if root.is_dir():
    tables = {split: next(iter(sorted(root.rglob(name))), None) for split, name in TABLES.items()}
    if missing := [TABLES[split] for split, table in tables.items() if table is None]:
      raise KdjaxError(f'{root} has no {missing[0]}.')
    by_split = {split: read_csv(table) for split, table in tables.items() if table}
    photos = [p for p in sorted(root.rglob('*')) if p.suffix.lower() in SUFFIXES]
    at: Mapping[str, Any] = {f'{p.stem}.jpg': p for p in photos}
    named = (*filter(None, tables.values()), *at.values())
  else:
    rows, by_split = read_json(root), {split: [] for split in TABLES}
    at, source = _of_flickr8k(rows, data_dir)
    for row in rows:
      part = zlib.crc32(row.image.encode()) % 8
      by_split['test' if part < 2 else 'validation' if part == 2 else 'train'].append(row)
    named += source.files

  def photo(name):
    place = at[name]
    return images.read_image(place, name) if isinstance(place, Path) else place[0][place[1]]['image']

  numbers = {name: i for i, name in enumerate(sorted(at))}
  by_split = {split: [row for row in rows if row.image in at] for split, rows in by_split.items()}
  if empty := [split for split, rows in by_split.items() if not rows]:
    raise KdjaxError(f'{root}: no photo of the split {empty[0]!r} is there.')
  splits = {split: Hypotheses(rows, photo, numbers) for split, rows in by_split.items()}
  return DataSet(splits, CLASSES, files.fingerprint(by_split), 'research only', files=named)
