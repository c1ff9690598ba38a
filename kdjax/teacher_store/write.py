"""The shards of a store: each written to a temporary file, and moved into place when it is complete."""

import errno
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from kdjax.errors import KdjaxError
from kdjax.runtime import distributed, files, progress
from kdjax.teacher_store import manifest, record
from kdjax.teacher_store.live_teacher import Teacher

# One record per group, so that each can be read alone; teacher outputs do not compress.
OPTIONS = 'group_size:1,uncompressed'
SCHEMA = {'key': str, 'bytes': int, 'crc32': int, 'ids': [int]}
OVERHEAD, BLOCK = 76, 2**16  # bytes that ArrayRecord adds to a record, and pads a file to; measured


def paths(folder: Path, shard: int) -> tuple[Path, Path]:
  """The records of a shard, and the JSON that describes them."""
  return folder / f'{shard:05d}.array_record', folder / f'{shard:05d}.json'


def estimate(spec: manifest.Spec, examples: int) -> int:
  """Approximate bytes of all shards."""
  example_bytes = (record.record(spec.taps).itemsize + OVERHEAD) * spec.views
  sizes = [min(spec.shard, examples - start) for start in range(0, examples, spec.shard)]
  return sum((-(-n * example_bytes // BLOCK) + 1) * BLOCK for n in sizes)


def checksum(path: Path) -> int:
  """CRC-32 of a file."""
  crc = 0
  with path.open('rb') as file:
    while block := file.read(1 << 22):
      crc = zlib.crc32(block, crc)
  return crc


def sidecar(folder: Path, shard: int) -> dict[str, Any]:
  """The JSON of a shard: 'key', 'bytes', 'crc32', 'ids'.

  Raises:
    KdjaxError: if it is missing or damaged.
  """
  return files.read_json(paths(folder, shard)[1], SCHEMA, manifest.BUILD)


def sidecar_or_none(folder: Path, shard: int) -> dict[str, Any] | None:
  """The JSON of a shard, None where it is missing or damaged."""
  try:
    return sidecar(folder, shard)
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
  described = sidecar_or_none(folder, shard)
  if described is None or not path.exists():
    return 'missing'
  if described['key'] != key:
    return 'of another store'
  if path.stat().st_size != described['bytes']:
    return 'cut off'
  return 'damaged' if sums and checksum(path) != described['crc32'] else ''


@contextmanager
def alone(folder: Path) -> Iterator[None]:
  """Locks the folder for one builder.

  Raises:
    KdjaxError: if another process holds it.
  """
  with distributed.claimed(folder / '.lock') as mine:
    if not mine:
      raise KdjaxError(f'another builder is writing the store {folder}: wait for it, or end it.')
    for part in folder.glob('.[0-9]*') if not jax.process_index() else ():  # of a builder that was killed
      part.unlink(missing_ok=True)
    yield


@contextmanager
def _writing(path, n_whole):
  """Turns a full or failing disk into a one-line error."""
  try:
    yield
  except (OSError, RuntimeError, ValueError) as e:  # what ArrayRecord raises, too
    reason = str(e).strip().split('\n')[0][:200]
    if getattr(e, 'errno', 0) == errno.ENOSPC or 'No space left' in str(e):
      reason = 'the disk is full'
    raise KdjaxError(
      f'cannot write {path} ({reason}); the {n_whole} shards that are whole are kept: '
      'make room and run the same command again.'
    ) from e


def shards(
  spec: manifest.Spec, missing: Sequence[int], whole: int, take: Callable, teacher: Teacher, examples: int
) -> None:
  """Writes the missing shards of this process.

  Args:
    spec: of the store.
    missing: the numbers of the shards to write.
    whole: how many complete ones this process has.
    take: `(rows) -> batch` of the examples.
    teacher: the live teacher.
    examples: how many there are.

  Raises:
    KdjaxError: if they cannot be written.
  """
  ranges = {i: range(i * spec.shard, min((i + 1) * spec.shard, examples)) for i in missing}
  chunks = [
    rows[at : at + teacher.size] for rows in ranges.values() for at in range(0, len(rows), teacher.size)
  ]

  def fetch(n):
    rows = np.asarray(chunks[n])
    return take(np.pad(rows, (0, teacher.size - len(rows)), mode='edge'))

  import grain  # half a second, which those who read a store do without

  ready = grain.MapDataset.range(len(chunks)).map(fetch)
  ready = iter(ready.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))
  done = 0
  with progress.bar('teacher outputs', sum(map(len, ranges.values())), 'example') as bar:
    for at, (shard, rows) in enumerate(ranges.items()):
      ids, (path, json_path) = [], paths(spec.folder, shard)
      n_whole = whole + at
      with files.swapped_in(path) as part:
        with _writing(path, n_whole):
          writer = ArrayRecordWriter(str(part), OPTIONS)
        try:
          while len(ids) < len(rows):
            batch, n = next(ready), min(teacher.size, len(rows) - len(ids))
            records = np.stack([teacher.answer(batch, v)[0][:n] for v in range(spec.views)], 1)
            with _writing(path, n_whole):
              for record in records.ravel():
                writer.write(record.tobytes())
            ids += batch['id'][:n].tolist()
            done += n
            bar.update(done, f'{n_whole}/{whole + len(missing)} shards')
        finally:
          with _writing(path, n_whole):
            writer.close()
        metadata = {'key': manifest.key(spec.identity), 'bytes': part.stat().st_size, 'crc32': checksum(part)}
        json_path.unlink(missing_ok=True)  # it must never describe another file
      with _writing(json_path, n_whole):
        files.write_json(json_path, metadata | {'ids': ids}, indent=None)


def manifest_of(spec: manifest.Spec, **more: Any) -> Mapping:
  """The manifest while the store is built and, with `more`, once it is complete."""
  return {
    'identity': spec.identity,
    'key': manifest.key(spec.identity),
    'bytes_per_record': record.record(spec.taps).itemsize,
    'complete': False,
    **more,
  }
