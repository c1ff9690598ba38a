"""Splits of a data set: read and encoded a batch at a time, or held in memory."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import decoded_cache, images
from kdjax.input.encode import count, tell
from kdjax.runtime import notices
from kdjax.runtime.progress import bar
from kdjax.types import DataSet

CHUNK = 512  # examples encoded at once
BYTES = 2**28  # of examples that are read before they are encoded


class LazySplit:
  """A split that is read and encoded a batch at a time."""

  def __init__(self, examples: Sequence, encode: Callable):
    self.examples, self.encode = examples, encode

  def __len__(self) -> int:
    return len(self.examples)

  def take(self, indices) -> dict[str, np.ndarray]:
    return count(self.encode(images.in_threads(lambda i: self.examples[int(i)], indices)))[0]


class InMemorySplit:
  """A split held in memory, a NumPy array a key."""

  def __init__(self, arrays: Mapping[str, np.ndarray]):
    self.arrays = dict(arrays)

  def __len__(self) -> int:
    return len(next(iter(self.arrays.values())))

  def take(self, indices) -> dict[str, np.ndarray]:
    return {k: v[indices] for k, v in self.arrays.items()}


def examples_of(dataset: DataSet, split: str) -> Sequence:
  """The examples of a split.

  Raises:
    KdjaxError: if there is no such split, or it is empty.
  """
  if split not in dataset.splits:
    raise KdjaxError(f'the data set has no split {split!r}; it has {", ".join(dataset.splits)}.')
  if not len(dataset.splits[split]):
    raise KdjaxError(f'the split {split!r} is empty.')
  return dataset.splits[split]


def read(
  dataset: DataSet, split: str, encode: Callable, memory: float = 4e9, kept: Path | None = None
) -> LazySplit | InMemorySplit:
  """A split of a data set, held in memory where it takes no more than `memory` bytes.

  `kept` is the folder of `decoded_cache.cache_path`, where decoded splits are cached.

  Raises:
    KdjaxError: if there is no such split, or it is empty.
  """
  examples = examples_of(dataset, split)
  n, kept, started = len(examples), kept and kept / split, time.monotonic()
  lazy = LazySplit(examples, encode)
  raw = examples[0]
  first, _ = count(encode([raw]))
  notices.clear()
  if n * sum(v.nbytes for v in first.values()) > memory:
    return lazy
  if cached := decoded_cache.load(kept):
    return _in_memory(split, n, *cached)
  arrays, counts = {k: np.empty((n, *v.shape[1:]), v.dtype) for k, v in first.items()}, {}
  chunk_size = chunk(raw)
  with bar(f'reading {split}', n, 'example') as progress:
    for start in range(0, n, chunk_size):
      rows = slice(start, min(start + chunk_size, n))
      encoded, counts = count(encode([examples[i] for i in range(n)[rows]]), counts)
      check_alike(split, encoded, first, f'in examples from {start}', 'in the first')
      for key, value in encoded.items():
        arrays[key][rows] = value
      progress.update(rows.stop)
  if time.monotonic() - started > decoded_cache.SLOW:
    decoded_cache.save(kept, arrays, counts)
  return _in_memory(split, n, arrays, counts)


def chunk(example: Mapping[str, Any]) -> int:
  """How many such examples are encoded at once: few where images are large."""
  size = sum(np.asarray(v).nbytes for v in example.values() if not isinstance(v, str))
  return int(min(CHUNK, max(BYTES // max(size, 1), 1)))


def check_alike(what: str, arrays: Mapping, others: Mapping, here: str, there: str, keys: Any = None) -> None:
  """Raises KdjaxError where shapes or types of examples differ; `here` and `there` name them in the message.

  `keys` are compared, by default all.
  """
  for key in keys if keys is not None else arrays.keys() | others.keys():
    mine, theirs = (
      f'{x[key].dtype} {list(x[key].shape[1:])}' if key in x else 'absent' for x in (arrays, others)
    )
    if mine != theirs:
      advice = '; for images set data.image_size.' if images.is_image(key) else '.'
      raise KdjaxError(f'{what}: {key!r} is {mine} {here} and {theirs} {there}{advice}')


def _in_memory(split, n, arrays, counts):
  """The split of these arrays; prints the counts."""
  tell(split, n, counts)
  return InMemorySplit(arrays)


class Subset(Sequence):
  """The examples of `source` at `indices`, in that order."""

  def __init__(self, source: Sequence, indices: np.ndarray):
    self.source, self.indices = source, np.asarray(indices)

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index):
    return self.source[int(self.indices[index])]
