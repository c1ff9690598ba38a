"""Reads a store: the teacher's taps of the examples of a batch, by their ids."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from kdjax.errors import KdjaxError
from kdjax.runtime.program import program
from kdjax.teacher_store import manifest, record, write

OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'  # for random access
OPEN = 256  # files at once: systems allow about a thousand
HELD = 1e9  # bytes up to which a store is checked as a whole when opened, and held in memory


class Reader:
  """A whole store.

  ArrayRecord checks a hash of every record at each read, and a record holds its example's id and view,
  so a flipped byte is an error and never a wrong output.

  Attributes:
    identity: all that decides the content, as in its manifest.
    taps: how each is stored.
    views: of every example.
    bytes: of all shards.

  Raises:
    KdjaxError: if a shard is missing, cut off or damaged.
  """

  def __init__(self, folder: Path, metadata: Mapping):
    self.identity, self.folder = metadata['identity'], folder
    self.taps = manifest.taps(metadata)
    self.record, self.views = record.record(self.taps), self.identity['store.views']
    self.shard, self.examples = self.identity['store.shard'], self.identity['data.examples']
    self.key, ids, self.bytes = manifest.key(self.identity), [], 0
    for i in range(self.count):
      self.check(i, sums=False)
      sidecar = write.sidecar(folder, i)
      ids += sidecar['ids']
      self.bytes += sidecar['bytes']
    self.order = np.argsort(ids, kind='stable')
    self.ids = np.asarray(ids, np.int64)[self.order]
    in_memory = self.bytes <= HELD
    for i in range(self.count) if in_memory else ():
      self.check(i)
    self._file = functools.lru_cache(None if in_memory else OPEN)(self._load if in_memory else self._open)

  @property
  def count(self) -> int:
    """The number of shards."""
    return -(-self.examples // self.shard)

  def check(self, shard: int, sums: bool = True) -> None:
    """Raises KdjaxError if a shard is not what was written."""
    if damage := write.damage(self.folder, shard, self.key, sums):
      raise self._damage_error(shard, f'is {damage}')

  def _damage_error(self, shard, problem):
    return KdjaxError(
      f'the shard {write.paths(self.folder, shard)[0]} {problem}: '
      f'run `{program()} store build` with the same config, which writes it again.'
    )

  def _open(self, shard):
    path = str(write.paths(self.folder, shard)[0])
    return ArrayRecordReader(path, OPTIONS, file_reader_buffer_size=4096)

  def _load(self, shard):
    return np.frombuffer(b''.join(self._open(shard).read_all()), self.record)

  def _read(self, shard, records):
    try:
      file = self._file(shard)
      if isinstance(file, np.ndarray):
        return file[records]
      return np.frombuffer(b''.join(file.read(records.tolist())), self.record)
    except (OSError, RuntimeError, ValueError, IndexError) as e:
      reason = str(e).strip().split('\n')[0][:120]
      raise self._damage_error(shard, f'cannot be read ({reason})') from e

  def take(self, ids: np.ndarray, views: np.ndarray) -> dict[str, np.ndarray]:
    """The stored teacher outputs of a batch: 'stored/<field>' -> `[B, ...]`.

    Raises:
      KdjaxError: if an example is not in the store, or its record is damaged.
    """
    position = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
    for missing in ids[self.ids[position] != ids][:1]:
      raise KdjaxError(f'the store {self.folder} has nothing of the example with the id {missing}.')
    shard, row = np.divmod(self.order[position], self.shard)
    index = row * self.views + views
    records = np.empty(len(ids), self.record)
    for i in np.unique(shard):
      where = np.flatnonzero(shard == i)
      loaded = self._read(i, index[where])
      keys = np.stack([loaded['id'], loaded['view']])
      if not np.array_equal(keys, [ids[where], views[where]]):
        raise self._damage_error(i, 'holds other examples than its index lists')
      records[where] = loaded
    return record.unpack(records)

  def join(self, batch: Mapping) -> dict[str, np.ndarray]:
    """A batch with its stored teacher outputs, and 'epoch' set to their view.

    Stored views repeat: epoch e of the training uses the view e mod V.
    """
    views = np.asarray(batch['epoch'] % self.views, np.int32)
    return {**batch, 'epoch': views, **self.take(batch['id'], views)}
