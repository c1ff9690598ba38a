"""Your own image-text pairs to train on, and a labelled data set of TFDS for zero-shot classification."""

import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Len

from kdjax.errors import KdjaxError, unknown
from kdjax.input import images, table_file, tfds_source
from kdjax.input.content import content
from kdjax.options import Name
from kdjax.runtime import files
from kdjax.runtime.files import regular_file, user_path
from kdjax.runtime.progress import track
from kdjax.types import DataSet

TEMPLATES = (
  'a photo of a {}.',
  'a small picture of a {}.',
  'a {} seen from close by.',
  'a {} somewhere in the background.',
  'a drawing of a {}.',
)
KINDS = ('.jsonl', '.csv', '.tsv')
WORDNET = re.compile(r'n\d{8}')
CHUNK = 1 << 24  # bytes of the file read at once


class Lines:
  """The lines of a text file that hold anything: 8 bytes of memory each, the file itself stays on disk.

  Attributes:
    digest: of the whole content.

  Raises:
    KdjaxError: if the file cannot be read, or is empty.
  """

  def __init__(self, path: Path):
    self.path, content, ends = path, hashlib.sha256(), []
    try:
      self._bytes = np.memmap(regular_file(path, 'table'), np.uint8, 'r')
    except (OSError, ValueError) as e:
      raise KdjaxError(f'cannot read the pairs of {path} ({e}).') from e
    for first in range(0, len(self._bytes), CHUNK):
      chunk = self._bytes[first : first + CHUNK]
      content.update(chunk.data)
      ends.append(np.flatnonzero(chunk == ord('\n')) + first)
    self.digest = content.hexdigest()
    last = [] if self._bytes[-1] == ord('\n') else [len(self._bytes) + 1]
    starts = np.concatenate([[0], *(e + 1 for e in ends), last]).astype(np.int64)
    full = np.flatnonzero(np.diff(starts) > 2)  # what is shorter is an end of a line and no row
    self._starts, self._full = starts, None if len(full) == len(starts) - 1 else full

  def __len__(self) -> int:
    return len(self._starts) - 1 if self._full is None else len(self._full)

  def number(self, index: int) -> int:
    """Of the line in the file, from 1."""
    return 1 + int(index if self._full is None else self._full[index])

  def __getitem__(self, index: int) -> str:
    line = self.number(index)
    start, stop = self._starts[line - 1 : line + 1]
    try:
      return self._bytes[start : stop - 1].tobytes().decode('utf-8-sig')
    except UnicodeDecodeError as e:
      raise KdjaxError(f'{self.path}, line {line}: not UTF-8 ({e}).') from e


class Pairs(Sequence):
  """An example a row of a .jsonl, .csv or .tsv file, read on demand."""

  def __init__(self, path: Path, columns: Mapping[str, str]):
    if path.suffix not in KINDS:
      raise unknown('kind of file of pairs', path.name, KINDS)
    self.path, self.lines, self.head = path, Lines(path), ()
    self.columns = {k: columns.get(k, k) for k in ('image', 'text')}
    if path.suffix != '.jsonl' and len(self.lines):
      self.head = table_file.names(path, self._fields(0))
    if not len(self):
      raise KdjaxError(f'{path} holds no pairs.')
    first = self._row(0)
    for key, name in self.columns.items():
      if name not in first:
        raise unknown(f'column for {key!r} of {path}', name, first)
    self.group = self._groups()

  def __len__(self) -> int:
    return len(self.lines) - bool(self.head)

  def __getitem__(self, index):
    index = range(len(self))[int(index)]
    row, where = self._row(index), self._where(index)
    text = table_file.read_text(row.get(self.columns['text']), where, self.columns['text'])
    image = images.read_image(self._image(row, where), where)
    return {'image': image, 'text': text, 'group': self.group[index], 'id': index}

  def _image(self, row, where):
    column = self.columns['image']
    return self.path.parent / table_file.read_name(row.get(column), where, column)

  def images(self, most: int = 20_000) -> list[Path]:
    """Files of different images, at most so many, spread over all rows."""
    rows = np.unique(self.group)
    rows = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
    return [self._image(self._row(i), self._where(i)) for i in rows]

  def _groups(self) -> np.ndarray:
    """Of each row [N] the first row with the same image: its captions are no wrong ones of each other."""
    column = self.columns['image']
    rows = track(range(len(self)), 'reading the pairs', len(self), 'row')
    names = (str(self._row(i).get(column)).encode() for i in rows)
    marks = (int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) for name in names)
    _, first, group = np.unique(
      np.fromiter(marks, np.uint64, len(self)), return_index=True, return_inverse=True
    )
    return first[group]

  def _where(self, index):
    return f'{self.path}, line {self.lines.number(index + bool(self.head))}'

  def _fields(self, line):
    text = self.lines[line].rstrip('\r')
    if self.path.suffix == '.tsv':
      return text.split('\t')
    if text.count('"') % 2:
      where = f'{self.path}, line {self.lines.number(line)}'
      raise KdjaxError(f'{where}: a quoted text goes on in the next line; write such a file as .jsonl.')
    try:
      return next(csv.reader([text], strict=True))
    except csv.Error as e:
      raise KdjaxError(f'{self.path}, line {self.lines.number(line)}: not well quoted ({e}).') from e

  def _row(self, index):
    if self.head:
      return table_file.row(self._where(index), self.head, self._fields(index + 1))
    return table_file.parse_object(self.lines[index], self._where(index))


class Questions(Sequence):
  """The images of a test, whose texts are empty, then the prompts, whose images are black."""

  def __init__(self, images: Sequence[dict], prompts: Sequence[tuple[str, int]]):
    self.images, self.prompts = images, prompts
    self._black = np.zeros_like(images[0]['image']) if len(images) else None

  def __len__(self) -> int:
    return len(self.images) + len(self.prompts)

  def __getitem__(self, index):
    index = range(len(self))[int(index)]
    if index < len(self.images):
      return self.images[index] | {'text': '', 'group': index, 'id': index}
    text, label = self.prompts[index - len(self.images)]
    return {'image': self._black, 'label': label, 'text': text, 'group': -1 - label, 'id': index}


def beside(name: str, data_dir: str | None) -> Path:
  """A file relative to the current folder, or else to where TFDS keeps prepared data."""
  path, cwd = user_path(name), Path.cwd()
  fallback = tfds_source.root(data_dir) / (path.relative_to(cwd) if path.is_relative_to(cwd) else path)
  return fallback if fallback.exists() and not path.exists() else path


def readable(names: Sequence[str], file: str, dataset: str, data_dir: str | None) -> tuple[str, ...]:
  """The names of the classes of `dataset`, from the file where there is one.

  Raises:
    KdjaxError: if it cannot be read or has another number of lines, or is needed and not given.
  """
  if file:
    path = beside(file, data_dir)
    try:
      lines = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()]
    except (OSError, UnicodeDecodeError) as e:
      raise KdjaxError(f'cannot read data.options.class_names, the classes of {dataset} ({e}).') from e
    if len(lines) != len(names) or not all(lines):
      raise KdjaxError(
        f'{path} names {len(lines)} classes, and {dataset} has {len(names)}: one a line, none empty.'
      )
    return tuple(lines)
  if ids := [name for name in names if WORDNET.fullmatch(name)]:
    raise KdjaxError(
      f'{dataset} calls its classes {ids[0]} ..., which no prompt can say: set data.options.class_names to a '
      f'text file with a readable name a line, {len(names)} in the order of these.'
    )
  return tuple(name.replace('_', ' ') for name in names)


def image_text(
  *,
  path: str = '',
  columns: Mapping[str, str] | None = None,
  zero_shot: str = 'imagenet2012',
  split: str = 'validation',
  class_names: str = '',
  templates: Annotated[tuple[Name, ...], Len(1)] = TEMPLATES,
  data_dir: str | None = None,
  download: bool = False,
) -> DataSet:
  """Pairs of your files as 'train'; as 'test' the images of a TFDS data set, then prompts of its classes.

  A pair has 'image', 'text' and 'group': rows that name the same image share one, so that their texts are no
  wrong ones for it. Of the test, an image has 'label', 'group' its place and an empty 'text'; a prompt has
  its class as 'label', -1 - class as 'group', and a black image. Both towers of a model read all of it. There
  is no validation split. The task is 'retrieval' with the metric 'zero_shot'.

  The file of pairs stays on disk: of 13 M rows 208 MB are held in memory. It is read through once at each
  start. Files named here are looked for from the current folder, then where TFDS keeps prepared data.

  Args:
    path: a .jsonl, .csv or .tsv file, a row a line with the columns 'image', a file named relative to its
      folder, and 'text'. The first line of the others names the columns.
    columns: 'image' or 'text' -> the name that the column has instead.
    zero_shot: the name of the TFDS data set, or a prepared folder.
    split: of it.
    class_names: a text file, a class a line in the order of the labels; by default the data set's names.
    templates: of the prompts, with {} for the class; not the 80 of CLIP, but a few of our own.
    data_dir: where TFDS keeps prepared data; `~/tensorflow_datasets` by default.
    download: whether TFDS may download what is not prepared.

  Raises:
    KdjaxError: if a file, a column, the data set or a name of a class is not what it should be.
  """
  if not path:
    raise KdjaxError(
      'which pairs? Set data.path to a .jsonl, .csv or .tsv file with the columns image and text.'
    )
  if bad := [t for t in templates if '{}' not in t]:
    raise KdjaxError(f'data.options.templates has {bad[0]!r}, which lacks the {{}} for the class.')
  for key in set(columns or {}) - {'image', 'text'}:
    raise unknown('column of image_text', key, ('image', 'text'))
  pairs = Pairs(beside(path, data_dir), dict(columns or {}))
  builder = tfds_source.open_builder(zero_shot, data_dir, download)
  keys = tfds_source.first_features(builder)
  if not {'image', 'label'} <= keys.keys():
    raise KdjaxError(f'{builder.name} has no labelled images: name another set in zero_shot.')

  def convert(record, index):
    image = np.asarray(record[keys['image']])
    image = np.repeat(image, 3, -1) if image.shape[-1] == 1 else image
    return {'image': image, 'label': int(record[keys['label']])}

  names = readable(builder.info.features[keys['label']].names, class_names, builder.name, data_dir)
  prompts = [(t.replace('{}', name), c) for c, name in enumerate(names) for t in templates]
  test = Questions(tfds_source.TfdsSource(builder, split, convert), prompts)
  mark = files.fingerprint(
    pairs.lines.digest, builder.info.full_name, split, len(test.images), names, tuple(templates)
  )
  return DataSet({'train': pairs, 'test': test}, names, mark, content=content(pairs.images()))
