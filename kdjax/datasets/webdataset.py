"""Tars of WebDataset: the files of an example share a name, such as 0001.jpg, 0001.txt, 0001.cls."""

import glob
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import draw, label_column, media, tars
from kdjax.input.audio_files import measured
from kdjax.input.label_column import Kind
from kdjax.input.table_file import SPLITS, split_name
from kdjax.options import Name, NonNegative, Whole
from kdjax.runtime.files import fingerprint
from kdjax.runtime.progress import counted, say
from kdjax.types import DataSet

BRACES = re.compile(r'\{(\d+)\.\.(\d+)\}')  # 'train-{000..009}.tar'
MOST = 100_000  # tars of a pattern


def tars_of(pattern: str) -> list[Path]:
  """The tars of a path, a pattern with * and ?, or one with {000..009}; of a folder all in it.

  Raises:
    KdjaxError: if there is none.
  """
  if Path(pattern).is_dir():
    pattern = f'{glob.escape(pattern)}/*.tar'
  ranges = [range(int(a), int(b) + 1) for a, b in BRACES.findall(pattern)]
  if np.prod([len(r) for r in ranges], dtype=float) > MOST:
    raise KdjaxError(f'{pattern} names more than {MOST:,} tars.')
  widths = [len(a) for a, _ in BRACES.findall(pattern)]
  bare = BRACES.sub('{}', pattern)
  names = [
    bare.format(*(f'{n:0{w}}' for n, w in zip(ns, widths, strict=True))) for ns in itertools.product(*ranges)
  ]
  names = names if ranges else [pattern]
  paths = sorted(
    Path(p) for name in names for p in (glob.glob(name) or ([name] if Path(name).exists() else []))
  )
  if not paths:
    raise KdjaxError(f'there is no tar {pattern}.')
  return paths


def split_of(tar: Path) -> str:
  """The split that a tar's name begins with, or that its folder is called, 'train-0001.tar'; '' for none."""
  for name in (re.split(r'[^A-Za-z]', tar.stem)[0], tar.parent.name):
    if (split := split_name(name)) in SPLITS:
      return split
  return ''


class Members(Sequence):
  """Examples of some members, read from the tars on demand."""

  def __init__(
    self,
    samples: Sequence[tars.Sample],
    keys: Sequence[str],
    labels: label_column.Labels | None,
    files: media.Media,
  ):
    self.samples, self.keys, self.labels, self.files = samples, keys, labels, files

  def __len__(self) -> int:
    return len(self.samples)

  def __getitem__(self, index):
    sample = self.samples[index]
    example = {'id': sample.number}
    for key in self.keys:
      value = tars.value(sample, key)
      if key == 'label':
        assert self.labels is not None  # of keys with a label
        example[key] = self.labels.place(value, sample.where)
      elif isinstance(value, np.ndarray):
        example |= {key: value} | ({f'{key}/present': np.float32(1)} if key in self.files.blanks else {})
      else:
        example |= self.files.read(key, value, sample.where, key)
    return example


def webdataset(
  *,
  path: str = '',
  classes: tuple[Name, ...] = (),
  label: Kind = 'class',
  rate: Whole = 0,
  seconds: NonNegative = 0.0,
) -> DataSet:
  """Tars whose files are grouped by name: images, sounds, .txt, .cls, .json, .npy.

  Nothing is extracted to disk, and nothing unpickled: an index of where the files lie is held in memory. A
  .json gives 'text' (or 'caption') and 'label' where no .txt and .cls do; a .cls is a class, a .npy an image
  or a video of bytes. Splits are the tars whose names begin with train, val, test …, or their folders;
  without them each example is drawn by its name, 80 : 10 : 10. Links and pipes in a tar are refused.

  Args:
    path: a .tar, a folder of tars, or a pattern: 'train-*.tar', 'part-{000..009}.tar'.
    classes: their names in order; by default the labels of train, sorted.
    label: what the task reads: one class, a number, several classes, or none.
    rate: samples a second of sounds; 0 for the most frequent.
    seconds: of each sound; 0 for the longest.

  Raises:
    KdjaxError: if a tar cannot be read, or is not what it should be.
  """
  if not path:
    raise KdjaxError('which tars? Set --config.data.path to a .tar, a folder of them or a pattern.')
  shards = tars_of(path)
  samples = tars.index(shards)
  if not samples:
    raise KdjaxError(f'{path} has no images, sounds, texts or arrays: {", ".join(tars.SUFFIXES)} are read.')
  keys = sorted({key for sample in samples for key in tars.keys(sample)})
  modalities = [k for k in keys if k != 'label']
  if not modalities or (label != 'none' and 'label' not in keys):
    raise KdjaxError(
      f'{shards[0]} has {", ".join(keys) or "nothing"} of an example; it needs a label (.cls, or "label" in '
      '.json) and an image, sound, text or array.'
    )
  named = {s: split_of(s) for s in shards}
  drawn = not any(split == 'train' for split in named.values())
  parts: dict[str, list] = {s: [] for s in SPLITS}
  for sample in samples:
    parts[draw.by_chance(sample.name) if drawn else named[sample.tar] or 'train'].append(sample)
  rest = [s for s in SPLITS if not parts[s]]
  if not drawn and rest:
    rows = {s: [p.number for p in part] for s, part in parts.items() if part}
    completed = draw.completed(rows, [fingerprint(s.name) for s in samples], [''] * len(samples))
    parts = {s: [samples[i] for i in completed.get(s, ())] for s in SPLITS}
  if not parts['test'] or not parts['train']:
    raise KdjaxError(
      f'{path} has {counted(len(samples), "example")}, too few to draw splits: call tars train-… and test-….'
    )
  listing = ', '.join(f'{s} {len(p):,}' for s, p in parts.items() if p)
  say(f'{Path(path).name}: {listing}{" (drawn)" if drawn or rest else ""}.')
  labels = None
  if 'label' in keys:
    cells = {s: [(tars.value(one, 'label'), one.where) for one in part] for s, part in parts.items()}
    labels = label_column.read(cells, label, drawn or bool(rest), classes)
    classes = labels.classes
  reader = reader_of(parts['train'], samples, modalities, rate, seconds)
  splits = {s: Members(part, keys, labels, reader) for s, part in parts.items() if part}
  mark = fingerprint([(s.name, len(s.members)) for s in samples], classes, keys, label, reader.sounds)
  own_rate = reader.sounds.rate if reader.sounds else 0
  return DataSet(splits, tuple(classes), mark, rate=own_rate, files=tuple(shards))


def reader_of(
  train: Sequence[tars.Sample], samples: Sequence[tars.Sample], keys: Sequence[str], rate, seconds
):
  """How the members become arrays; a modality that some example lacks is marked, as in a table."""
  reader = media.Media(Path())
  if 'audio' in keys:
    with_sound = [s for s in train if 'audio' in tars.keys(s)] or [
      s for s in samples if 'audio' in tars.keys(s)
    ]

    def sound(i):
      content = tars.value(with_sound[i], 'audio')
      assert isinstance(content, bytes)  # of keys with a sound
      return content, with_sound[i].where

    reader = reader._replace(sounds=measured(len(with_sound), sound, rate, seconds))
  blanks = {}
  for key in keys if len(keys) > 1 else ():
    lacking = sum(key not in tars.keys(s) for s in samples)
    if lacking:
      say(f'{lacking:,} of {len(samples):,} examples have no {key}, and are read as lacking it.')
      blanks[key] = _blank(key, next(s for s in samples if key in tars.keys(s)), reader)
  return reader._replace(blanks=blanks)


def _blank(key: str, sample: tars.Sample, reader: media.Media):
  if key == 'text':
    return ''
  if key == 'audio':
    assert reader.sounds is not None  # of keys with a sound
    return reader.sounds.silence()
  value = tars.value(sample, key)
  shape = np.shape(value if isinstance(value, np.ndarray) else reader.array(key, value, sample.where, key))
  return np.full(shape, media.GREY, np.uint8)
