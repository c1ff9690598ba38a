"""A store that is read: the teacher's taps of the examples of a batch, by their ids."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from kdjax.errors import KdjaxError
from kdjax.store import layout, manifest, write

OPTIONS = 'readahead_buffer_size:0,max_parallelism:0'  # for one record here, one there
OPEN = 256  # files at once: systems allow about a thousand
HELD = 1e9  # bytes up to which a store is checked as a whole when it is opened, and held in memory


class Reader:
  """A whole store.

  ArrayRecord keeps a hash of every record and compares it at each reading, and a record holds its
  example's id and view, so a byte that flips is an error when it is read and never an answer.

  Attributes:
    taps: how each is kept.
    views: of every example.
    bytes: of all shards.

  Raises:
    KdjaxError: if a shard is missing, cut off or damaged.
  """

  def __init__(self, folder: Path, found: Mapping):
    identity, self.folder = found['identity'], folder
    self.taps = manifest.taps(found)
    self.record, self.views = layout.record(self.taps), identity['store.views']
    self.shard, self.examples = identity['store.shard'], identity['data.examples']
    self.key, ids, self.bytes = manifest.key(identity), [], 0
    for i in range(self.count):
      self.check(i, sums=False)
      said = write.beside(folder, i)
      ids += said['ids']
      self.bytes += said['bytes']
    self.order = np.argsort(ids, kind='stable')
    self.ids = np.asarray(ids, np.int64)[self.order]
    held = self.bytes <= HELD
    for i in range(self.count) if held else ():
      self.check(i)
    self._file = functools.lru_cache(None if held else OPEN)(self._load if held else self._open)

  @property
  def count(self) -> int:
    """Of shards."""
    return -(-self.examples // self.shard)

  def check(self, shard: int, sums: bool = True) -> None:
    """Raises KdjaxError if a shard is not what was written."""
    if wrong := write.damage(self.folder, shard, self.key, sums):
      raise self._damaged(shard, f'is {wrong}')

  def _damaged(self, shard, what):
    return KdjaxError(
      f'the shard {write.paths(self.folder, shard)[0]} {what}: '
      'run `python run.py store build` with the same config, which writes it again.'
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
      raise self._damaged(shard, f'cannot be read ({reason})') from e

  def take(self, ids: np.ndarray, views: np.ndarray) -> dict[str, np.ndarray]:
    """What a batch carries of the teacher's answers: 'stored/<field>' -> `[B, ...]`.

    Raises:
      KdjaxError: if an example is not in the store, or its record is damaged.
    """
    at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
    for one in ids[self.ids[at] != ids][:1]:
      raise KdjaxError(f'the store {self.folder} has nothing of the example with the id {one}.')
    shard, row = np.divmod(self.order[at], self.shard)
    index = row * self.views + views
    made = np.empty(len(ids), self.record)
    for i in np.unique(shard):
      where = np.flatnonzero(shard == i)
      found = self._read(i, index[where])
      said = np.stack([found['id'], found['view']])
      if not np.array_equal(said, [ids[where], views[where]]):
        raise self._damaged(i, 'holds other examples than it says')
      made[where] = found
    return layout.unpack(made)

  def join(self, batch: Mapping) -> dict[str, np.ndarray]:
    """A batch with the teacher's answers, and 'epoch' set to the view that they are of.

    Views that were stored come round again: epoch e of the training shows the view e mod V.
    """
    views = np.asarray(batch['epoch'] % self.views, np.int32)
    return {**batch, 'epoch': views, **self.take(batch['id'], views)}
