"""From the examples of a data set to batches: encoding, order, padding."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from kdjax import decoded, images, notices, sources, tokenizer
from kdjax.encode import count, make_encode, tell  # noqa: F401
from kdjax.errors import KdjaxError
from kdjax.progress import bar
from kdjax.types import DataSet

CHUNK = 512  # examples encoded at once
BYTES = 2**28  # of examples that are read before they are encoded


def spoken(dataset: DataSet, words: Any, prompt_length: int) -> DataSet:
  """The data set; where it has responses, the tokens of the vocabulary are its classes.

  Raises:
    KdjaxError: if the tokenizer has no end, or prompts leave no room.
  """
  first = {} if words is None else dataset.splits['train'][0]
  if not {'text', 'response'} <= first.keys():
    return dataset
  tokenizer.end(words)
  known = sources.fingerprint(dataset.fingerprint, tokenizer.longest(words, prompt_length))
  return dataset._replace(classes=tokenizer.vocabulary(words), fingerprint=known)


class Lazy:
  """A split that is read and encoded when a batch asks for it."""

  def __init__(self, examples: Sequence, encode: Callable):
    self.examples, self.encode = examples, encode

  def __len__(self) -> int:
    return len(self.examples)

  def take(self, indices) -> dict[str, np.ndarray]:
    return count(self.encode(sources.in_threads(lambda i: self.examples[int(i)], indices)))[0]


class Columns:
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
) -> Lazy | Columns:
  """A split of a data set, held in memory where it takes no more than `memory` bytes.

  `kept` is the folder of `decoded.place`, from which it is taken where it was read before.

  Raises:
    KdjaxError: if there is no such split, or it is empty.
  """
  examples = examples_of(dataset, split)
  n, kept, began = len(examples), kept and kept / split, time.monotonic()
  lazy = Lazy(examples, encode)
  raw = examples[0]
  first, _ = count(encode([raw]))
  notices.clear()
  if n * sum(v.nbytes for v in first.values()) > memory:
    return lazy
  if cached := decoded.load(kept):
    return _held(split, n, *cached)
  arrays, counts = {k: np.empty((n, *v.shape[1:]), v.dtype) for k, v in first.items()}, {}
  at_once = chunk(raw)
  with bar(f'reading {split}', n, 'example') as shown:
    for start in range(0, n, at_once):
      rows = slice(start, min(start + at_once, n))
      encoded, counts = count(encode([examples[i] for i in range(n)[rows]]), counts)
      check_alike(split, encoded, first, f'in examples from {start}', 'in the first')
      for key, value in encoded.items():
        arrays[key][rows] = value
      shown.update(rows.stop)
  if time.monotonic() - began > decoded.SLOW:
    decoded.save(kept, arrays, counts)
  return _held(split, n, arrays, counts)


def chunk(example: Mapping[str, Any]) -> int:
  """How many such examples are read at once: few where images are large."""
  size = sum(np.asarray(v).nbytes for v in example.values() if not isinstance(v, str))
  return int(min(CHUNK, max(BYTES // max(size, 1), 1)))


def check_alike(what: str, arrays: Mapping, others: Mapping, here: str, there: str, keys: Any = None) -> None:
  """Raises KdjaxError where shapes or types of examples differ; `here` and `there` say of which.

  `keys` are those that are compared, by default all.
  """
  for key in keys if keys is not None else arrays.keys() | others.keys():
    mine, theirs = (
      f'{x[key].dtype} {list(x[key].shape[1:])}' if key in x else 'absent' for x in (arrays, others)
    )
    if mine != theirs:
      advice = '; for images set data.image_size.' if images.is_image(key) else '.'
      raise KdjaxError(f'{what}: {key!r} is {mine} {here} and {theirs} {there}{advice}')


def _held(split, n, arrays, counts):
  """The columns, after saying what was counted."""
  tell(split, n, counts)
  return Columns(arrays)


def places(source: Lazy | Columns) -> int:
  """One more than the largest 'id'; of a split read as it goes, by its number and its last example."""
  if isinstance(source, Columns) and 'id' in source.arrays:
    return int(np.max(source.arrays['id'])) + 1
  return max(len(source), int(np.max(source.take([len(source) - 1]).get('id', 0))) + 1)


def train_batches(
  source: Lazy | Columns, batch_size: int, seed: int, reader: Any = None, rows_only: bool = False
) -> Iterator:
  """Endless shuffled batches of this process's share, as a checkpointable Grain iterator.

  Every batch has 'epoch', which with 'id' names the augmented view of an example. A `reader` of a
  teacher store joins the teacher's answers. With `rows_only` a batch has 'epoch' and 'row', the places in
  `source` of what it would hold.
  """
  n, workers = len(source), jax.process_count()
  order = grain.MapDataset.range(n)
  order = order.repeat() if batch_size == n else order.seed(seed).shuffle().repeat()  # all of them: no order
  order = order.map_with_index(lambda i, row: (row, i // n))
  mine = order.slice(slice(jax.process_index(), None, workers)) if workers > 1 else order
  rows = mine.batch(batch_size // workers, drop_remainder=True)

  def fetch(batch):
    indices, epochs = np.asarray(batch[0]), np.asarray(batch[1], np.int32)
    if rows_only:
      return {'row': indices.astype(np.int32), 'epoch': epochs}
    batch = source.take(indices) | {'epoch': epochs}
    return reader.join(batch) if reader else batch

  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
  return iter(rows.map(fetch).to_iter_dataset(options))


def eval_batches(source: Lazy | Columns, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """One pass in order; the last batch is filled up with rows whose 'mask' is 0."""
  share = batch_size // jax.process_count()
  for start in range(0, len(source), batch_size):
    rows = start + jax.process_index() * share + np.arange(share)
    real = rows < len(source)
    batch = source.take(np.where(real, rows, 0))
    yield batch | {'mask': real.astype(np.float32), 'epoch': np.zeros(share, np.int32)}
