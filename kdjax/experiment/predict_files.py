"""What `predict` reads and writes: files as columns of examples, and answers as lines or a table."""

import csv
import glob
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdjax.errors import KdjaxError, printable
from kdjax.experiment.predict import Answer, Predictor
from kdjax.input import audio_files, images, table_file
from kdjax.input.media import Media, is_absent
from kdjax.runtime import files
from kdjax.runtime.progress import counted, say

NAMES = ('image', 'text', 'audio', 'video')  # of columns and flags; other inputs are arrays
ARRAY = 'array'  # a kind of input
SUFFIXES = {
  'image': (
    '.png',
    '.jpg',
    '.jpeg',
    '.gif',
    '.bmp',
    '.tif',
    '.tiff',
    '.webp',
    '.avif',
    '.jp2',
    '.ppm',
    '.tga',
  ),
  'text': ('.txt',),
  'audio': audio_files.SUFFIXES,
  'video': ('.npy', '.npz', '.gif', '.webp', '.tif', '.tiff', '.png'),
  ARRAY: ('.npy',),
}
WRITTEN = ('.jsonl', '.csv')
OURS = ('prediction', 'score', 'predictions')  # columns that are written


class Files(Sequence):
  """Values that are read from their files when they are asked for; None where there is no name."""

  def __init__(self, names: Sequence[Any], places: Sequence[str], read: Any):
    self.names, self.places, self.read = names, places, read

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index):
    name = self.names[index]
    return None if name is None else self.read(name, self.places[index])


class Rows(NamedTuple):
  """What is asked.

  Attributes:
    columns: as `Predictor` takes them.
    shown: a dict a row: what the user gave, to be written beside the answers.
  """

  columns: dict[str, Sequence]
  shown: list[dict[str, Any]]


def readable(predictor: Predictor) -> tuple[str, ...]:
  """The modalities of the model that a file can have.

  Raises:
    KdjaxError: if there are none.
  """
  names = tuple(name for name in predictor.keys if kind(predictor, name))
  if not names:
    raise KdjaxError(f'the model reads {", ".join(predictor.example)}, and none of them from a file.')
  return names


def kind(predictor: Predictor, name: str) -> str:
  """What a file of an input holds: one of `NAMES`, `ARRAY`, or '' for a sound of no known rate."""
  axes = len(predictor.example[predictor.keys[name]].shape)
  if name == 'audio' and axes == 1:
    return 'audio' if predictor.rate else ''
  return name if (name, axes) in (('image', 3), ('video', 4)) or name == 'text' else ARRAY


def _column(
  predictor: Predictor, name: str, values: Sequence, places: Sequence[str], folder: Path = Path()
) -> Sequence:
  what = kind(predictor, name)
  if what == 'image':
    return Files(values, places, images.read_image)
  if what == 'video':
    media = Media(Path(), frames=predictor.example[predictor.keys[name]].shape[0])
    return Files(values, places, lambda path, where: media.video(str(path), where, name))
  if what == ARRAY:
    media = Media(folder)
    return Files(values, places, lambda value, where: media.numbers(value, where, name))
  if what == 'audio':
    rate = int(predictor.rate)
    return Files(values, places, lambda path, where: audio_files.read_sound(path, rate, where))
  return values


def given(predictor: Predictor, values: Mapping[str, Sequence[str]]) -> Rows:
  """The rows of --image, --text, --audio, --video and --array: each given once, or once a row.

  Raises:
    KdjaxError: for what the model does not take, or a file or a pattern that is none.
  """
  known = readable(predictor)
  for name in values:
    if values[name] and name not in known:
      raise KdjaxError(f'the model takes {" and ".join(known)}, and no {name}: leave {flag(name)} out.')
  columns_of = {
    name: expand(kind(predictor, name), values[name], flag(name)) for name in known if values.get(name)
  }
  if not columns_of:
    raise KdjaxError(
      f'what about? Give {" and ".join(f"{flag(k)}=…" for k in known)}, or a table with --input=….'
    )
  rows = max(map(len, columns_of.values()))
  for name, own in columns_of.items():
    if len(own) not in (1, rows):
      raise KdjaxError(
        f'{flag(name)} is given {len(own)} times; give it once, or {rows} times as the others.'
      )
  columns = {
    name: _column(
      predictor,
      name,
      own if kind(predictor, name) in ('text', ARRAY) else [*map(Path, own)],
      [flag(name)] * len(own),
    )
    for name, own in columns_of.items()
  }
  return Rows(columns, [{name: own[i % len(own)] for name, own in columns_of.items()} for i in range(rows)])


def flag(name: str) -> str:
  """The flag of an input."""
  return f'--{name}' if name in NAMES else f'--array={name}'


def expand(name: str, values: Sequence[str], flag: str) -> list[str]:
  """File names of files, folders and patterns; for 'text' lines of .txt files, and other values as they are.

  Raises:
    KdjaxError: for a folder or a pattern without such files.
  """
  names_of, suffixes = [], SUFFIXES[name]
  for value in values:
    path = Path(value).expanduser() if len(value) < 4096 and '\0' not in value else Path()
    if name == 'text' and not (value.endswith(suffixes) or _is(path, 'folder')):
      names_of.append(value)
      continue
    names = [str(path)]
    if _is(path, 'folder'):
      names = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in suffixes)
      if not names:
        raise KdjaxError(
          f'{flag}: the folder {value} holds no {", ".join(suffixes)}; those in the folders below it are '
          f"'{value.rstrip('/')}/**/*{suffixes[0]}', in quotes."
        )
    elif not _is(path, 'file') and glob.has_magic(value):
      names = sorted(p for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
      if not names:
        raise KdjaxError(f'{flag}: no file is named as {value}.')
    names_of += names if name != 'text' else [line for file in names for line in _text_lines(Path(file))]
  return names_of


def _is(path: Path, what: str) -> bool:
  try:
    return path.is_dir() if what == 'folder' else path.is_file()
  except OSError:  # too long a name: it is none
    return False


def _text_lines(path: Path) -> list[str]:
  try:
    content = files.regular_file(path, 'text').read_text('utf-8-sig')
  except (OSError, UnicodeDecodeError) as e:
    raise KdjaxError(f'--text: cannot read {path} ({e}); words are given as they are.') from e
  lines = [line for line in content.splitlines() if line.strip()]
  if not lines:
    raise KdjaxError(f'--text: {path} holds no text.')
  say(f'{path}: {counted(len(lines), "text")}, one a line.')
  return lines


def table(predictor: Predictor, path: Path) -> Rows:
  """The rows of a .jsonl, .csv or .tsv file, whose columns are the model's inputs; files lie beside it.

  Raises:
    KdjaxError: if it cannot be read, or has nothing that the model takes; it names the line.
  """
  known, shown = readable(predictor), table_file.rows(path)
  if not shown:
    raise KdjaxError(f'{path} has no rows.')
  present = set().union(*shown)
  used = [name for name in known if name in present]
  if not used:
    columns = ', '.join(sorted(present - {'#'}))
    raise KdjaxError(
      f'{path} has the columns {columns}; the model takes {" and ".join(known)}: rename yours.'
    )
  for name in NAMES:
    if name in present and name not in known:
      say(f'{path.name}: the column {name!r} is not read; the model takes {" and ".join(known)}.')
  places, cells = [f'{path}, line {row["#"]}' for row in shown], {name: [] for name in used}
  for row, where in zip(shown, places, strict=True):
    empty = {name: is_absent(row.get(name)) for name in used}
    if all(empty.values()):
      raise KdjaxError(f'{where}: it has no {" and no ".join(used)}.')
    for name in used:
      cells[name].append(None if empty[name] else _cell(predictor, name, row[name], where, path.parent))
  columns = {name: _column(predictor, name, values, places, path.parent) for name, values in cells.items()}
  return Rows(columns, [{k: v for k, v in row.items() if k != '#'} for row in shown])


def _cell(predictor: Predictor, name: str, value: Any, where: str, folder: Path) -> Any:
  """A text, the path of a file, or of an array what stands in the cell: a name or a list."""
  if kind(predictor, name) == ARRAY:
    return value
  if name == 'text':
    return table_file.read_text(value, where, name)
  return folder / table_file.read_name(value, where, name)


def writable(path: Path, source: Path | None) -> None:
  """Raises KdjaxError for a name to which no answers can be written."""
  if path.suffix.lower() not in WRITTEN:
    raise KdjaxError(f'--output={path}: its name has to end in {" or ".join(WRITTEN)}.')
  if path.is_dir() or source is not None and path.exists() and path.samefile(source):
    what = 'a folder' if path.is_dir() else 'the table that is read'
    raise KdjaxError(f'--output={path} is {what}: give another name.')


def write(path: Path, shown: Sequence[Mapping[str, Any]], answers: Sequence[Answer]) -> None:
  """Writes what was given and the answers, a row an example; `OURS` replace columns of their name.

  A .csv has the further answers in prediction_2, score_2 and so on, a .jsonl all of them in `predictions`.
  """
  if taken := sorted({*OURS} & set().union(*shown)):
    say(f'{path.name}: {" and ".join(taken)} of the table {"are" if taken[1:] else "is"} replaced.')
  rows = []
  as_json = path.suffix.lower() == '.jsonl'
  for given_row, answer in zip(shown, answers, strict=True):
    row = dict(given_row) | {'prediction': answer[0][0], 'score': answer[0][1]}
    if as_json:
      row['predictions'] = [{'prediction': name, 'score': score} for name, score in answer]
    else:
      for i, (name, score) in enumerate(answer[1:], 2):
        row |= {f'prediction_{i}': name, f'score_{i}': score}
    rows.append(row)
  text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows) if as_json else _csv(rows)
  files.write(path, text.encode('utf-8', 'replace').decode())


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
  """A header, and a line a row."""
  columns, buffer = list(dict.fromkeys(key for row in rows for key in row)), io.StringIO(newline='')
  writer = csv.writer(buffer, lineterminator='\n')
  writer.writerow(columns)
  for row in rows:
    cells = [row.get(key, '') for key in columns]
    writer.writerow([json.dumps(c) if isinstance(c, dict | list) else '' if c is None else c for c in cells])
  return buffer.getvalue()


def lines(shown: Sequence[Mapping[str, Any]], answers: Sequence[Answer]) -> list[str]:
  """The answers as lines: all of one row, or the first of each of several rows.

  Rows with the same single answer, such as how well image and text match, are sorted by score.
  """
  if len(answers) == 1:
    return [printable(f'{score:8.4f}  {name}') for name, score in answers[0]]
  names = list(dict.fromkeys(name for row in shown for name in row))
  names = [n for n in NAMES if n in names] + [n for n in names if n not in NAMES]
  varied = [name for name in names if len({str(row.get(name)) for row in shown}) > 1] or names
  rows = []
  for row, answer in zip(shown, answers, strict=True):
    label = ', '.join(str(row[name]) for name in varied if row.get(name) is not None)
    rows.append((answer[0][1], printable(f'{answer[0][1]:8.4f}  {label}: {answer[0][0]}')))
  one_question = len({answer[0][0] for answer in answers}) == 1 and len(answers[0]) == 1
  return [line for _, line in (sorted(rows, key=lambda r: -r[0]) if one_question else rows)]
