"""The shards of a store: each written beside its place, checked, and moved there when it is whole."""

import errno
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from kdjax import files, parallel, progress
from kdjax.errors import KdjaxError
from kdjax.store import layout, manifest
from kdjax.store.answers import Teacher

# A group a record, so that any one is read alone; what a teacher says does not compress.
OPTIONS = 'group_size:1,uncompressed'
BESIDE = {'key': str, 'bytes': int, 'crc32': int, 'ids': [int]}
OVERHEAD, BLOCK = 76, 2**16  # bytes that ArrayRecord adds to a record, and fills a file up to; measured


def paths(folder: Path, shard: int) -> tuple[Path, Path]:
  """The records of a shard, and the JSON that says what they are."""
  return folder / f'{shard:05d}.array_record', folder / f'{shard:05d}.json'


def estimate(spec: manifest.Spec, examples: int) -> int:
  """Bytes of all shards, about."""
  one = (layout.record(spec.taps).itemsize + OVERHEAD) * spec.views
  sizes = [min(spec.shard, examples - at) for at in range(0, examples, spec.shard)]
  return sum((-(-n * one // BLOCK) + 1) * BLOCK for n in sizes)


def checksum(path: Path) -> int:
  """CRC-32 of a file."""
  made = 0
  with path.open('rb') as file:
    while block := file.read(1 << 22):
      made = zlib.crc32(block, made)
  return made


def beside(folder: Path, shard: int) -> dict | None:
  """What the JSON of a shard says, None where there is none that can be read."""
  try:
    return files.read_json(paths(folder, shard)[1], BESIDE, manifest.BUILD)
  except KdjaxError:
    return None


def damage(folder: Path, shard: int, key: str, sums: bool = True) -> str:
  """What is wrong with a shard: 'missing', 'of another store', 'cut off', 'damaged', or ''.

  Args:
    folder: of the store.
    shard: its number.
    key: of the store's identity.
    sums: whether the checksum is computed, which reads the whole file.
  """
  path, _ = paths(folder, shard)
  said = beside(folder, shard)
  if said is None or not path.exists():
    return 'missing'
  if said['key'] != key:
    return 'of another store'
  if path.stat().st_size != said['bytes']:
    return 'cut off'
  return 'damaged' if sums and checksum(path) != said['crc32'] else ''


@contextmanager
def alone(folder: Path) -> Iterator[None]:
  """Holds the folder for one builder, of all processes the first.

  Raises:
    KdjaxError: if another one is at it.
  """
  with parallel.claimed(folder / '.lock') as mine:
    if not mine:
      raise KdjaxError(f'another builder is writing the store {folder}: wait for it, or end it.')
    for part in folder.glob('.[0-9]*') if not jax.process_index() else ():  # of a builder that was killed
      part.unlink(missing_ok=True)
    yield


@contextmanager
def _writing(path, kept):
  """One line for a disk that is full or fails."""
  try:
    yield
  except (OSError, RuntimeError, ValueError) as e:  # what ArrayRecord raises, too
    reason = str(e).strip().split('\n')[0][:200]
    if getattr(e, 'errno', 0) == errno.ENOSPC or 'No space left' in str(e):
      reason = 'the disk is full'
    raise KdjaxError(
      f'cannot write {path} ({reason}); the {kept} shards that are whole are kept: '
      'make room and run the same command again.'
    ) from e


def shards(
  spec: manifest.Spec, missing: Sequence[int], whole: int, take: Callable, ask: Teacher, examples: int
) -> None:
  """Writes the shards of this process that are not there whole.

  Args:
    spec: of the store.
    missing: their numbers.
    whole: how many others this process has.
    take: `(rows) -> batch` of the examples.
    ask: the teacher.
    examples: how many there are.

  Raises:
    KdjaxError: if they cannot be written.
  """
  ranges = {i: range(i * spec.shard, min((i + 1) * spec.shard, examples)) for i in missing}
  chunks = [rows[at : at + ask.size] for rows in ranges.values() for at in range(0, len(rows), ask.size)]

  def fetch(n):
    rows = np.asarray(chunks[n])
    return take(np.pad(rows, (0, ask.size - len(rows)), mode='edge'))

  ready = grain.MapDataset.range(len(chunks)).map(fetch)
  ready = iter(ready.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))
  done = 0
  with progress.bar('asking the teacher', sum(map(len, ranges.values())), 'example') as shown:
    for at, (shard, rows) in enumerate(ranges.items()):
      ids, (path, sidecar) = [], paths(spec.folder, shard)
      kept = whole + at
      with files.swapped_in(path) as part:
        with _writing(path, kept):
          writer = ArrayRecordWriter(str(part), OPTIONS)
        try:
          while len(ids) < len(rows):
            batch, n = next(ready), min(ask.size, len(rows) - len(ids))
            records = np.stack([ask.answer(batch, v)[0][:n] for v in range(spec.views)], 1)
            with _writing(path, kept):
              for one in records.ravel():
                writer.write(one.tobytes())
            ids += batch['id'][:n].tolist()
            done += n
            shown.update(done, f'{kept}/{whole + len(missing)} shards')
        finally:
          with _writing(path, kept):
            writer.close()
        told = {'key': manifest.key(spec.identity), 'bytes': part.stat().st_size, 'crc32': checksum(part)}
        sidecar.unlink(missing_ok=True)  # it must never speak of another file
      with _writing(sidecar, kept):
        files.write_json(sidecar, told | {'ids': ids}, indent=None)


def manifest_of(spec: manifest.Spec, **more: Any) -> Mapping:
  """What the manifest says while the store is built and, with more, once it is whole."""
  return {
    'identity': spec.identity,
    'key': manifest.key(spec.identity),
    'bytes_per_record': layout.record(spec.taps).itemsize,
    'complete': False,
    **more,
  }
