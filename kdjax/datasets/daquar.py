"""DAQUAR: questions about photographs of rooms, with one word as the answer (Malinowski and Fritz, 2014)."""

import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import images, numpy_arrays, table_file
from kdjax.options import Count
from kdjax.runtime import files
from kdjax.types import DataSet

LISTS = {'train': 'qa.*.train.txt', 'test': 'qa.*.test.txt'}  # the authors'
SUFFIXES = '.png', '.jpg', '.jpeg'
ROW = {'image': str, 'question': str, 'answer': str, 'split': str}
IN_IMAGE = re.compile(r'\s+(?:(?:in|of|on)\s+)?(?:the\s+)?(image\d+)\s*\??\s*$')


class Question(NamedTuple):
  image: str
  text: str
  answer: str
  split: str


def read(root: Path) -> tuple[list[Question], Mapping[str, Path | bytes]]:
  """(the questions, the name of each image -> where it is) of a folder.

  Raises:
    KdjaxError: if the folder has neither of the layouts, or a file is of another form.
  """
  tables = {split: next(iter(sorted(root.rglob(pattern))), None) for split, pattern in LISTS.items()}
  table = next(iter(sorted(root.rglob('daquar*.jsonl'))), None)
  if all(tables.values()):
    asked = [q for split, path in tables.items() if path for q in _pairs(path, split)]
    return asked, {p.stem: p for p in sorted(root.rglob('image*')) if p.suffix.lower() in SUFFIXES}
  arrays_path = next(iter(sorted(root.rglob('daquar*.npz'))), None)
  if table is None or arrays_path is None:
    raise KdjaxError(
      f'{root} has no questions of DAQUAR: {" and ".join(LISTS.values())} beside image1.png, …, or '
      'daquar*.jsonl and daquar*.npz.'
    )
  arrays = numpy_arrays.read_npz(arrays_path, 'file of images', 100)
  if missing := {'jpeg', 'offset', 'name'} - arrays.keys():
    raise KdjaxError(f'{arrays_path} has no array {sorted(missing)[0]!r}: it has {", ".join(arrays)}.')
  names = [str(name) for name in np.atleast_1d(arrays['name'])]
  content = numpy_arrays.packed_files(arrays, arrays_path, len(names))
  return _rows(table), dict(zip(names, content, strict=True))


def _lines(path):
  try:
    text = files.regular_file(path, 'file of questions').read_text(encoding='utf-8-sig')
  except (OSError, UnicodeDecodeError) as e:
    raise KdjaxError(f'cannot read the questions {path} ({files.first_line(e)}).') from e
  return [line.strip() for line in text.split('\n') if line.strip()]


def _pairs(path, split):
  """The questions of a file that has a line of the question and a line of its answers."""
  lines = _lines(path)
  for number in range(0, len(lines), 2):
    match = IN_IMAGE.search(lines[number])
    if not match or number + 1 == len(lines):
      raise KdjaxError(f'{path}, line {number + 1}: it is no question "… in the image7 ?" and its answer.')
    yield Question(match[1], lines[number][: match.start()], lines[number + 1], split)


def _rows(path):
  questions = []
  for row in table_file.rows(path):
    number = row['#']
    if wrong := files.misfit(row, ROW):
      raise KdjaxError(f'{path}, line {number}: {wrong}.')
    if row['split'] not in LISTS:
      raise KdjaxError(f'{path}, line {number}: the split is {row["split"]!r}; it is train or test.')
    questions.append(Question(row['image'], row['question'], row['answer'], row['split']))
  return questions


class Lookup(NamedTuple):
  """A reference without a model: the most frequent answer to the same words in training, else to any."""

  asked: Sequence[Question]  # of the test
  answers: Mapping[str, int]
  default: int

  def __call__(self, arrays: Mapping[str, Any]) -> np.ndarray:
    texts = (self.asked[i].text for i in arrays['id'].tolist())
    return np.array([self.answers.get(text, self.default) for text in texts])


class Questions(Sequence):
  """Questions with their photograph, decoded on demand, and the class of their answer."""

  def __init__(self, asked: Sequence[Question], photos: Mapping[str, Path | bytes], names: Any):
    self.asked, self.photos = asked, photos
    self.images, self.classes = names

  def __len__(self) -> int:
    return len(self.asked)

  def __getitem__(self, index):
    question = self.asked[int(index)]
    return {
      'image': images.from_source(self.photos[question.image], question.image),
      'text': question.text,
      'label': self.classes[question.answer],
      'group': self.images[question.image],
      'id': int(index),
    }


def daquar(*, path: str = '', answers: Count = 100) -> DataSet:
  """`image`, `text` and the answer, one of the most frequent; 'group' is the photograph.

  Questions with another answer, or several, are left out of every split, as is usual for classifiers: 4,236
  of the 5,673 test questions have one of 100, four of them about two photographs that later copies lack. The
  split is the published one, by photograph; an eighth of the training photographs is for validation.
  Photographs that are missing are left out with their questions.

  Args:
    path: the folder of qa.894.raw.train.txt, qa.894.raw.test.txt and the images, at any depth; or of
      daquar*.jsonl ('image', 'question', 'answer', 'split') and daquar*.npz ('jpeg' u8, 'offset', 'name').
    answers: how many, by their frequency in training.

  Raises:
    KdjaxError: if a file is missing or of another form.
  """
  if not path or not Path(path).is_dir():
    raise KdjaxError('daquar: set --config.data.path to the folder of its questions and images.')
  asked, photos = read(Path(path))
  asked = [q for q in asked if q.image in photos and ',' not in q.answer]
  counts = Counter(q.answer for q in asked if q.split == 'train')
  frequent = sorted(counts, key=lambda answer: (-counts[answer], answer))[:answers]
  classes = {answer: i for i, answer in enumerate(frequent)}
  names = {name: i for i, name in enumerate(sorted(photos))}
  by_split: dict[str, list[Question]] = {'train': [], 'validation': [], 'test': []}
  for question in asked:
    held_out = question.split == 'train' and zlib.crc32(question.image.encode()) % 8 == 0
    split = 'validation' if held_out else question.split
    if question.answer in classes and split in by_split:
      by_split[split].append(question)
  if empty := [split for split, questions in by_split.items() if not questions]:
    raise KdjaxError(f'{path} has no question with an image for the split {empty[0]!r}.')
  splits = {split: Questions(questions, photos, (names, classes)) for split, questions in by_split.items()}
  pairs = Counter((q.text, classes[q.answer]) for q in by_split['train']).most_common()
  lookup = Lookup(by_split['test'], {text: label for (text, label), _ in reversed(pairs)}, 0)
  mark = files.fingerprint(by_split, frequent)
  content = tuple(p for p in photos.values() if isinstance(p, Path))
  content = content or tuple(sorted(Path(path).rglob('daquar*')))
  rules = {'answer to the same words': lookup}
  return DataSet(splits, tuple(frequent), mark, 'research only', files=content, heuristics=rules)
