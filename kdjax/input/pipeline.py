"""From splits to batches: order, share of a process, padding."""

from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np

from kdjax.input.splits import InMemorySplit, LazySplit


def places(source: LazySplit | InMemorySplit) -> int:
  """One more than the largest 'id'; of a lazy split, from its length and its last example."""
  if isinstance(source, InMemorySplit) and 'id' in source.arrays:
    return int(np.max(source.arrays['id'])) + 1
  return max(len(source), int(np.max(source.take([len(source) - 1]).get('id', 0))) + 1)


def train_batches(
  source: LazySplit | InMemorySplit, batch_size: int, seed: int, reader: Any = None, rows_only: bool = False
) -> Iterator:
  """Endless shuffled batches of this process's share, as a checkpointable Grain iterator.

  Every batch has 'epoch', which with 'id' names the augmented view of an example. A `reader` of a
  teacher store adds the stored teacher outputs. With `rows_only` a batch has 'epoch' and 'row' alone, the
  indices of its examples in `source`.
  """
  examples, workers = len(source), jax.process_count()
  order = grain.MapDataset.range(examples)
  if batch_size != examples:  # a full batch has no order
    order = order.seed(seed).shuffle()
  order = order.repeat()
  order = order.map_with_index(lambda i, row: (row, i // examples))
  local = order.slice(slice(jax.process_index(), None, workers)) if workers > 1 else order
  rows = local.batch(batch_size // workers, drop_remainder=True)

  def fetch(batch):
    indices, epochs = np.asarray(batch[0]), np.asarray(batch[1], np.int32)
    if rows_only:
      return {'row': indices.astype(np.int32), 'epoch': epochs}
    batch = source.take(indices) | {'epoch': epochs}
    return reader.join(batch) if reader else batch

  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
  return iter(rows.map(fetch).to_iter_dataset(options))


def eval_batches(source: LazySplit | InMemorySplit, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """One pass in order; the last batch is filled up with rows whose 'mask' is 0."""
  local_size = batch_size // jax.process_count()
  for start in range(0, len(source), batch_size):
    rows = start + jax.process_index() * local_size + np.arange(local_size)
    valid = rows < len(source)
    batch = source.take(np.where(valid, rows, 0))
    yield batch | {'mask': valid.astype(np.float32), 'epoch': np.zeros(local_size, np.int32)}
