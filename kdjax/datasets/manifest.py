"""Your own files: a table, a row an example, with columns for image, text, audio, video, label and split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError, unknown
from kdjax.input import draw, label_column, media
from kdjax.input.audio_files import measured
from kdjax.input.label_column import Kind
from kdjax.input.table_file import SPLITS, is_missing, read_response, rows, split_name
from kdjax.options import Name, NonNegative, Whole
from kdjax.runtime.files import fingerprint
from kdjax.runtime.progress import say
from kdjax.types import DataSet


def by_chance(row: Mapping, columns: Mapping[str, str]) -> str:
  """80 % train, 10 % validation, 10 % test: always the same, and one image is in one split."""
  keys = (row.get(c) for k, c in columns.items() if k not in ('label', 'response', 'split'))
  key = next((_named(v) for v in keys if not media.is_absent(v)), None)
  return draw.by_chance(key)


def _named(value):
  """What a cell of Parquet holds, as a text or bytes."""
  if isinstance(value, Mapping):
    return value.get('path') if value.get('bytes') is None else value.get('bytes')
  return value


class Rows(Sequence):
  """Examples of some rows, with the files read on demand."""

  def __init__(
    self,
    path: Path,
    table: Sequence[Mapping],
    columns: Mapping[str, str],
    labels: label_column.Labels | None,
    files: media.Media,
    domains: Sequence[str] = (),
  ):
    self.path, self.table, self.columns, self.labels, self.files = path, table, columns, labels, files
    self.domains = domains

  def __len__(self) -> int:
    return len(self.table)

  def __getitem__(self, index):
    row = self.table[index]
    where = f'{self.path}, line {row["#"]}'
    example: dict[str, Any] = {'id': row.get('##', row['#'])}
    example |= {'group': row['group']} if 'group' in row else {}
    for key, column in self.columns.items():
      value = row.get(column)
      if key == 'label':
        example[key] = self.label(value, where)
      elif key == 'response':
        example[key] = read_response(value, where, column)
      elif key == 'domain':
        example[key] = self.domains.index(_domain(value, where, column))
      else:
        example |= self.files.read(key, value, where, column)
    return example

  def label(self, value, where) -> Any:
    assert self.labels is not None  # a table with a label column has them
    return self.labels.place(value, where)


def _domain(value, where, column) -> str:
  if is_missing(value) or not isinstance(value, str | int):
    raise KdjaxError(f'{where}: {column!r} is {str(value)[:40]!r}; a domain is a name.')
  return str(value)


def expanded(table: Sequence[Mapping], used: Mapping[str, str], name: str, grouped: bool) -> list[dict]:
  """The rows; one with lists of texts, images or sounds becomes a row for each combination, in one 'group'.

  Args:
    table: the rows.
    used: modality -> column.
    name: of the file, for a message.
    grouped: whether rows of one image are in a group too, as the pairs of a retrieval are.
  """
  result: list[dict] = []
  columns = [c for k, c in used.items() if k in ('text', 'image', 'audio')]
  several = 0
  for row in table:
    copies = [dict(row)]
    for column in columns:
      value = row.get(column)
      chat = isinstance(value, list) and any(isinstance(v, Mapping) and 'role' in v for v in value)
      if isinstance(value, list) and value and not chat:
        copies = [copy | {column: v} for copy in copies for v in value]
    several += len(copies) > 1
    result += copies
  first: dict[Any, int] = {}
  for i, row in enumerate(result) if several or grouped else ():
    image = _named(row.get(used.get('image', ''))) if grouped else None
    row['##'] = i  # each needs an 'id' of its own
    row['group'] = first.setdefault(('row', row['#']), first.get(('image', image), len(first)))
    if image:
      first.setdefault(('image', image), row['group'])
  if several:
    say(
      f'{name}: {several:,} of {len(table):,} rows hold several texts, images or sounds: {len(result):,} '
      "examples, those of one row in one 'group'."
    )
  return result


def manifest(
  *,
  path: str = '',
  columns: Mapping[str, str] | None = None,
  classes: tuple[Name, ...] = (),
  label: Kind = 'class',
  rate: Whole = 0,
  seconds: NonNegative = 0.0,
  frames: Whole = 0,
  arrays: tuple[Name, ...] = (),
  length: Whole = 0,
  domain: str = '',
) -> DataSet:
  """Reads a manifest; files are named relative to its folder. docs/data.md lists how cells are read.

  Columns may be absent, but for one of 'image', 'text', 'audio' and 'video'. Rows without a split are
  shared out by the first of these, about 80 : 10 : 10. An empty label is one not known. Where a table has
  several of them, an empty cell is a modality that the example lacks: '<modality>/present' is 0. A table
  without labels may have a 'response' to each text, for language models; one with labels too if it is named.

  Args:
    path: a .jsonl, .csv, .tsv or .parquet file.
    columns: 'image', 'text', 'audio', 'video', 'label', 'response' or 'split' -> the name that the column has
      instead.
    classes: their names in order; by default the labels of the training rows, sorted; of all rows where
      some have no split.
    label: what the task reads: one class, a number, several classes ('cat|dog' or a list), or none.
    rate: samples a second of sounds; 0 for the most frequent.
    seconds: of each sound; 0 for the longest.
    frames: of each video, evenly spaced; 0 for all.
    arrays: columns of further inputs, arrays of numbers: .npy files or lists, such as a sensor's [L, F].
    length: of those of two axes, cut or filled up with a '<name>/mask'; 0 where all have one.
    domain: a column that says where an example comes from, such as a person; each is scored apart too.

  Raises:
    KdjaxError: if the file, a column, an image or a label is not what it should be.
  """
  file = Path(path)
  if not path:
    raise KdjaxError('which manifest? Set --config.data.path=FILE (.jsonl, .csv, .tsv or .parquet).')
  table = rows(file)
  if not table:
    raise KdjaxError(f'the manifest {file} has no rows.')
  present = set().union(*table) - {'#'}
  names, used, split = columns_of(file, present, dict(columns or {}), label, arrays)
  if domain:
    if domain not in present:
      raise unknown(f'column for the domain of {file}', domain, present)
    used['domain'] = domain
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
  grouped = not {'label', 'response'} & used.keys()
  rows_ = expanded([row for part in parts.values() for row in part], used, file.name, grouped)
  split_of = {row['#']: s for s, part in parts.items() for row in part}
  parts = {s: [row for row in rows_ if split_of[row['#']] == s] for s in SPLITS}
  labels = None
  if 'label' in used:
    cells = {
      s: [(row.get(used['label']), f'{file}, line {row["#"]}, column {used["label"]!r}') for row in part]
      for s, part in parts.items()
    }
    labels = label_column.read(cells, label, drawn > 0, classes)
    classes = labels.classes
  plain = media.Media(file.parent, frames=frames, arrays=arrays, length=length)
  reader = reader_of(file, parts['train'] or rows_, rows_, used, rate, seconds, plain)
  domains = (
    sorted({_domain(r.get(domain), f'{file}, line {r["#"]}', domain) for r in rows_}) if domain else []
  )
  splits = {
    s: Rows(file, part, used, labels, reader, domains)
    for s, part in parts.items()
    if part or s != 'validation'
  }
  mark = fingerprint(file.read_bytes(), tuple(classes))
  if options := [
    o for o in (label, rate, seconds, frames, arrays, length, domain) if o not in ('class', 'none', 0, (), '')
  ]:
    mark = fingerprint(mark, options)
  sounds = reader.sounds.rate if reader.sounds else 0
  return DataSet(
    splits,
    tuple(classes),
    mark,
    rate=sounds,
    domains=tuple(domains),
    files=(file, *files_of(table, used, file.parent, arrays)),
  )


def columns_of(file, present, given, label, arrays) -> tuple[dict, dict, str]:
  """(key -> name of its column, the same of those that are read, the column of splits)."""
  names = {k: k for k in (*media.MODALITIES, 'label', 'split')} | given | {k: k for k in arrays}
  for key, name in (given | {k: k for k in arrays}).items():
    if name not in present:
      raise unknown(f'column for {key!r} of {file}', name, present)
  split = names.pop('split')
  used = {k: c for k, c in names.items() if c in present}
  if 'label' not in used and 'text' in used and 'response' in present:
    used.setdefault('response', 'response')
  if 'response' in used:
    used.pop('label', None)
  modalities = used.keys() & {*media.MODALITIES, *arrays}
  supervised = {'label', 'response'} & used.keys() or (label == 'none' and len(modalities) > 1)
  if not modalities or not supervised:
    raise KdjaxError(
      f'{file} has the columns {", ".join(sorted(present))}; it needs one for labels and one for images, '
      'texts, sounds or videos: name yours with data.columns.label, data.columns.image, data.columns.text, '
      'data.columns.audio; a language model needs a text and a response, data.columns.response.'
    )
  return names, used, split


def reader_of(file, train, table, used, rate, seconds, plain) -> media.Media:
  """How the cells of a table are read, by those of the training rows."""

  def where(row):
    return f'{file}, line {row["#"]}'

  sounds, counts = None, media.absent(table, used, where, plain.arrays)
  has = {k: [r for r in train if not media.is_absent(r.get(c))] or list(table) for k, c in used.items()}
  if 'audio' in used:
    with_audio = has['audio']

    def sound(i):
      value, place = with_audio[i].get(used['audio']), where(with_audio[i])
      return plain.source(value, place, used['audio']), place

    sounds = measured(len(with_audio), sound, rate, seconds)
  if not counts:
    return plain._replace(sounds=sounds)
  blanks: dict[str, Any] = {}
  for key in counts:
    first = has[key][0]
    if key == 'text':
      blanks[key] = ''
    elif key == 'audio':
      blanks[key] = sounds and sounds.silence()
    else:
      array = plain.array(key, first.get(used[key]), where(first), used[key])
      blanks[key] = (
        np.zeros_like(array) if key in plain.arrays else np.full(array.shape, media.GREY, np.uint8)
      )
  listed = ', '.join(f'{n:,} have no {used[k]!r}' for k, n in counts.items())
  say(f'{file.name}: of {len(table):,} examples {listed}, and are read as lacking it.')
  return plain._replace(sounds=sounds, blanks=blanks)


def files_of(table, used, folder, arrays=()) -> tuple[Path, ...]:
  """The files that the cells name."""
  counts: Counter[Path] = Counter()
  for row in table:
    for key in used.keys() & {'image', 'audio', 'video', *arrays}:
      value = row.get(used[key])
      for item in value if isinstance(value, list) else [value]:
        name = _named(item)
        if key in arrays and (not isinstance(name, str) or name.lstrip().startswith('[')):
          continue
        if isinstance(name, str | int) and not media.is_absent(name):
          counts[folder / str(name)] += 1
  return tuple(counts)
