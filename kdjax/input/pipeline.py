"""From splits to batches: order, share of a process, padding."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from kdjax.input.splits import InMemorySplit, LazySplit

LARGEST_ORDER = 2**24  # examples of which a permutation is held


def places(source: LazySplit | InMemorySplit) -> int:
  """One more than the largest 'id'; of a lazy split, from its length and its last example."""
  if isinstance(source, InMemorySplit) and 'id' in source.arrays:
    return int(np.max(source.arrays['id'])) + 1
  return max(len(source), int(np.max(source.take([len(source) - 1]).get('id', 0))) + 1)


def train_batches(
  source: LazySplit | InMemorySplit,
  batch_size: int,
  seed: int,
  reader: Any = None,
  rows_only: bool = False,
  index_shuffle: bool = False,
) -> Iterator:
  """Endless shuffled batches of this process's share, as a checkpointable Grain iterator.

  Every batch has 'epoch', which with 'id' names the augmented view of an example. A `reader` of a
  teacher store adds the stored teacher outputs. With `rows_only` a batch has 'epoch' and 'row' alone, the
  indices of its examples in `source`. With `index_shuffle` the order is that of Grain, which older workdirs
  have, and data sets of more than 2**24 examples. Of few examples it is slow, 35 ms / examples each.
  """
  import grain  # half a second, which evaluation and prediction do without

  examples, workers, first = len(source), jax.process_count(), jax.process_index()
  local = batch_size // workers
  by_grain = None
  if index_shuffle or examples > LARGEST_ORDER:
    by_grain = grain.MapDataset.range(examples).seed(seed).shuffle()

  def fetch(batch):
    epochs, places = np.divmod(np.arange(batch * local, (batch + 1) * local) * workers + first, examples)
    if batch_size == examples:  # a full batch has no order
      indices = places
    elif by_grain:
      indices = np.array([by_grain[int(e) * examples + int(i)] for e, i in zip(epochs, places, strict=True)])
    else:
      indices = np.empty_like(places)
      for epoch in np.unique(epochs):
        now = epochs == epoch
        indices[now] = order(examples, seed, int(epoch))[places[now]]
    epochs = epochs.astype(np.int32)
    if rows_only:
      return {'row': indices.astype(np.int32), 'epoch': epochs}
    batch = source.take(indices) | {'epoch': epochs}
    return reader.join(batch) if reader else batch

  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
  return iter(grain.MapDataset.range(2**48).map(fetch).to_iter_dataset(options))


@functools.lru_cache(maxsize=4)
def order(examples: int, seed: int, epoch: int) -> np.ndarray:
  """The order of an epoch's examples, a permutation [examples]."""
  return np.random.default_rng((seed, epoch)).permutation(examples).astype(np.uint32)


def eval_batches(source: LazySplit | InMemorySplit, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """One pass in order; the last batch is filled up with rows whose 'mask' is 0."""
  local_size = batch_size // jax.process_count()
  for start in range(0, len(source), batch_size):
    rows = start + jax.process_index() * local_size + np.arange(local_size)
    valid = rows < len(source)
    batch = source.take(np.where(valid, rows, 0))
    yield batch | {'mask': valid.astype(np.float32), 'epoch': np.zeros(local_size, np.int32)}
