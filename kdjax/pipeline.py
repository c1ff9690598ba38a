"""From the examples of a data set to batches: encoding, order, padding."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np

from kdjax import decoded, sources, tokenizer
from kdjax.errors import KdjaxError
from kdjax.progress import bar, say
from kdjax.types import DataSet

CHUNK = 512  # examples encoded at once
CUT = '/cut'  # whether a text was longer than fits, for whoever counts them


def make_encode(
  words: Any = None, image_size: int | None = None, classes: int = 0, prompt_length: int = 0
) -> Callable:
  """`encode(examples) -> {key: array}`, a row an example; every text gets a '<key>/mask' and a '<key>/cut'.

  Examples with a 'text' and a 'response' get one sequence of both, 'text', of which 'text/response' and
  'text/target' say what belongs to the response; see `tokenizer.encode_pairs`.

  Args:
    words: the tokenizer of texts, from `tokenizer.cut`.
    image_size: images are resized to this square; None takes them as they are.
    classes: labels have to lie in [0, classes), or be -1; 0 does not check.
    prompt_length: tokens of the longest prompt before a response; 0 for half of a text.
  """

  def column(key, values):
    if isinstance(values[0], str):
      if words is None:
        raise KdjaxError(f'{key!r} is text, and no tokenizer was made for it.')
      ids, mask, long = tokenizer.encode(words, values)
      return {key: ids, f'{key}/mask': mask, f'{key}{CUT}': long}
    if key == 'image' and image_size:
      values = sources.in_threads(lambda v: sources.resize(v, image_size), values)
    try:
      array = np.stack([np.asarray(v) for v in values])
    except ValueError as e:
      raise KdjaxError(
        f'the examples have {key!r} of different shapes ({np.shape(values[0])} and others); '
        'for images set data.image_size.'
      ) from e
    narrow = {np.dtype('int64'): np.int32, np.dtype('float64'): np.float32}
    return {key: array.astype(narrow.get(array.dtype, array.dtype))}

  def dialogue(prompts, responses):
    found = tokenizer.encode_pairs(words, prompts, responses, prompt_length)
    return {f'text{key}': value for key, value in found.items()}

  def encode(examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    arrays, keys = {}, list(examples[0])
    if 'text' in keys and 'response' in keys:
      keys = [k for k in keys if k not in ('text', 'response')]
      arrays |= dialogue(*([e[k] for e in examples] for k in ('text', 'response')))
    for key in keys:
      arrays |= column(key, [e[key] for e in examples])
    labels = arrays.get('label')
    if classes and labels is not None and labels.ndim == 1:
      for row in np.flatnonzero((labels < -1) | (labels >= classes))[:1]:
        where = arrays['id'][row] if 'id' in arrays else row
        raise KdjaxError(
          f'example {where} has the label {labels[row]}, and the data set has {classes} classes '
          f'(0 to {classes - 1}; -1 for a label that is not known).'
        )
    return arrays

  return encode


def spoken(found: DataSet, words: Any, prompt_length: int) -> DataSet:
  """The data set; where it has responses, the tokens of the vocabulary are its classes.

  Raises:
    KdjaxError: if the tokenizer has no end, prompts leave no room, or examples have no 'id'.
  """
  first = {} if words is None else found.splits['train'][0]
  if not {'text', 'response'} <= first.keys():
    return found
  if 'id' not in first:
    raise KdjaxError("what a model writes is drawn for the example's 'id', and these examples have none.")
  tokenizer.end(words)
  known = sources.fingerprint(found.fingerprint, tokenizer.longest(words, prompt_length))
  return found._replace(classes=tokenizer.vocabulary(words), fingerprint=known)


class Lazy:
  """A split that is read and encoded when a batch asks for it."""

  def __init__(self, examples: Sequence, encode: Callable):
    self.examples, self.encode = examples, encode

  def __len__(self) -> int:
    return len(self.examples)

  def take(self, indices) -> dict[str, np.ndarray]:
    return _counted(self.encode(sources.in_threads(lambda i: self.examples[int(i)], indices)), {})


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
  first = lazy.take([0])
  if n * sum(v.nbytes for v in first.values()) > memory:
    return lazy
  if found := decoded.load(kept):
    return _held(split, n, *found)
  arrays, long = {k: np.empty((n, *v.shape[1:]), v.dtype) for k, v in first.items()}, {}
  with bar(f'reading {split}', n, 'example') as shown:
    for start in range(0, n, CHUNK):
      rows = slice(start, min(start + CHUNK, n))
      chunk = encode([examples[i] for i in range(n)[rows]])
      for key, value in _counted(chunk, long).items():
        if key not in arrays or value.shape[1:] != arrays[key].shape[1:]:
          raise KdjaxError(
            f'{split}: {key!r} is {list(value.shape[1:])} in examples from {start} and '
            f'{list(arrays[key].shape[1:]) if key in arrays else "absent"} in the first; '
            'for images set data.image_size.'
          )
        arrays[key][rows] = value
      shown.update(rows.stop)
  if time.monotonic() - began > decoded.SLOW:
    decoded.save(kept, arrays, long)
  return _held(split, n, arrays, long)


def _held(split, n, arrays, long):
  """The columns, after saying which of their texts are cut."""
  for key, many in long.items():
    say(f'{split}: {many:,} of {n:,} have a longer {key!r} than data.text_length, and it is cut.')
  return Columns(arrays)


def _counted(arrays, long):
  """`arrays` without the flags of texts that are cut, which are added up in `long`."""
  for key in [k for k in arrays if k.endswith(CUT)]:
    if many := int(arrays.pop(key).sum()):
      name = key.removesuffix(CUT)
      long[name] = long.get(name, 0) + many
  return arrays


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
