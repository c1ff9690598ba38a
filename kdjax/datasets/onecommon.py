"""OneCommon: which of seven dots two people agreed on, from their dialogue (Udagawa and Aizawa, 2019)."""

import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.options import Name
from kdjax.runtime import files
from kdjax.types import DataSet

BETWEEN = (' </input> <dialogue> ', ' </dialogue> <output> ')
DOTS, VALUES = 7, 4  # x, y, size and colour of each


def read(path: Path) -> list[dict[str, Any]]:
  """'text', 'dots' f32 [7, 4] and 'label' of every line of a file of the set.

  Raises:
    KdjaxError: if it cannot be read, or a line is of another form.
  """
  try:
    lines = files.regular_file(path, 'file of dialogues').read_text(encoding='utf-8').split('\n')
  except (OSError, UnicodeDecodeError) as e:
    raise KdjaxError(f'cannot read the dialogues {path} ({files.first_line(e)}).') from e
  rows = []
  for number, line in enumerate(filter(str.strip, lines), 1):
    dots, first, rest = line.strip().removeprefix('<input> ').partition(BETWEEN[0])
    words, second, chosen = rest.partition(BETWEEN[1])
    label = chosen.removesuffix(' </output>')
    try:
      values = np.array([float(x) for x in dots.split()], np.float32)
    except ValueError:
      values = np.empty(0)
    known = label in map(str, range(DOTS))
    if not (first and second and known) or values.size != DOTS * VALUES or not np.isfinite(values).all():
      raise KdjaxError(
        f'{path}, line {number}: it is not "<input> 28 numbers </input> <dialogue> ... </dialogue> <output> '
        '0 to 6 </output>".'
      )
    text = ' '.join(words.replace('<eos>', '').replace('<selection>', '').split())
    rows.append({'text': text, 'dots': values.reshape(DOTS, VALUES), 'label': int(label)})
  if not rows:
    raise KdjaxError(f'{path} has no dialogue.')
  return rows


class Dialogues(Sequence):
  """Dialogues, each as one of the two people had it."""

  def __init__(self, rows: Sequence[dict]):
    self.rows = rows

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index):
    return self.rows[index] | {'id': int(index)}


def darkest(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
  """The dot of the lowest colour value, which is black at -1."""
  return arrays['dots'][..., 3].argmin(-1)


def onecommon(
  *,
  path: str = '',
  train: Name = 'onecommon_train_uncorrelated.txt',
  test: Name = 'onecommon_valid_uncorrelated.txt',
) -> DataSet:
  """`text`, a whole dialogue of YOU: and THEM:, and `dots` f32 [7, 4]; the label is the dot they chose.

  Two people see overlapping parts of a field of dots and have to agree on one by talking; here is what one of
  them saw and said. A dot has place x and y, size and colour, each from -1 to 1. A tenth of the training
  dialogues is for validation, with both sides of a dialogue in one split. In the 'uncorrelated' files each
  dialogue stands once.

  Args:
    path: the folder of the authors' .txt files.
    train, test: the files of the two splits.

  Raises:
    KdjaxError: if a file is missing or of another form.
  """
  if not path:
    raise KdjaxError('onecommon: set --config.data.path to the folder of its .txt files.')
  paths = [Path(path) / name for name in (train, test)]
  training, tested = (read(p) for p in paths)

  def held_out(row):  # the words without who says them are those of the other side too
    words = re.sub(r'YOU:|THEM:', '', row['text'])
    return zlib.crc32(' '.join(words.split()).encode()) % 10 == 0

  splits = {
    'train': Dialogues([row for row in training if not held_out(row)]),
    'validation': Dialogues([row for row in training if held_out(row)]),
    'test': Dialogues(tested),
  }
  classes = tuple(f'dot {i + 1}' for i in range(DOTS))
  mark = files.fingerprint('onecommon', train, test, [len(s) for s in splits.values()])
  return DataSet(splits, classes, mark, 'research', files=tuple(paths), heuristics={'darkest dot': darkest})
