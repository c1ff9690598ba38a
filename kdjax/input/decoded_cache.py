"""A disk cache of decoded splits.

A split is cached where its data set names its `files`. The cache key is the size and time of these, the part
of `config.data` that the content depends on, the vocabulary, and the source of kdjax that reads; where any
changes, the split is decoded again.
"""

import contextlib
import functools
import importlib.metadata
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input.images import in_threads
from kdjax.runtime import files, progress
from kdjax.runtime.files import fingerprint, user_path

LARGEST = 10e9  # bytes of the cache: the least recently used goes first
MOST = 200_000  # files of a data set that is cached
SLOW = 1.0  # seconds of decoding from which a split is cached
ABANDONED = 3600.0  # seconds after which an unfinished folder is deleted
COUNTS = 'cut.json'
SCHEMA = {'arrays': {str: [(str, int)]}, 'cut': {str: int}}
BLOCK = 2**24  # bytes of a file under one checksum


def cache_path(cache: str, files: Iterable[Path], *parts: Any) -> Path | None:
  """The folder for the splits decoded from `files`, None where they are not cached.

  Args:
    cache: the folder of all caches; '' for none.
    files: of the data set.
    *parts: whatever else the content depends on.
  """
  files = sorted({*map(Path, files)})
  if not cache or not 0 < len(files) <= MOST:
    return None
  try:
    stats = [(str(f.absolute()), s.st_size, s.st_mtime_ns) for f in files for s in (f.stat(),)]
  except OSError:  # the reader raises a better error
    return None
  return user_path(cache) / 'decoded' / fingerprint(stats, parts, _code())


def usable(cache: str) -> str:
  """The folder of all caches; '', and a printed line, where it cannot be written."""
  if not cache:
    return ''
  try:
    folder = user_path(cache)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      return str(folder)
  except OSError as e:
    progress.say(f'--cache={cache} cannot be written ({e.strerror}): nothing is kept for the next start')
    return ''


def load(folder: Path | None) -> tuple[dict[str, np.ndarray], dict[str, int]] | None:
  """The cached arrays of a split, read-only memory maps, and how many texts are cut; None without a cache."""
  if folder is None or not (folder / COUNTS).exists():
    return None
  try:
    counts = files.read_json(folder / COUNTS, SCHEMA, 'it is read again')
    if damaged := [
      name for name, checksum in counts['arrays'].values() if _checksum(folder / name) != checksum
    ]:
      raise ValueError(f'{folder / damaged[0]} is not what was written')
    arrays = {k: np.load(folder / name, mmap_mode='r') for k, (name, _) in counts['arrays'].items()}
    with contextlib.suppress(OSError):  # of another user
      os.utime(folder)
  except (KdjaxError, OSError, ValueError, EOFError) as e:
    progress.say(f'decoded data are damaged, and read again: {e}')
    shutil.rmtree(folder, ignore_errors=True)
    return None
  return {k: v.view(np.ndarray) for k, v in arrays.items()}, counts['cut']


def _checksum(path: Path) -> int:
  """CRC-32 of a file, over its blocks in as many threads as there are cores."""
  blocks = range(0, path.stat().st_size, BLOCK)

  def block_checksum(offset):
    with path.open('rb') as file:
      file.seek(offset)
      return zlib.crc32(file.read(BLOCK))

  return zlib.crc32(np.array(in_threads(block_checksum, blocks), np.uint32).tobytes())


def save(folder: Path | None, arrays: Mapping[str, np.ndarray], cut: Mapping[str, int]) -> None:
  """Caches the arrays of a split atomically; a full disk is no error."""
  size = sum(v.nbytes for v in arrays.values())
  if folder is None or size > LARGEST:
    return
  root = folder.parent.parent
  try:
    root.mkdir(parents=True, exist_ok=True)
    _evict(root, LARGEST - size)
    partial = Path(tempfile.mkdtemp(prefix='begun-', dir=root))
    try:
      names = {key: f'{i}.npy' for i, key in enumerate(arrays)}
      for key, name in names.items():
        with (partial / name).open('wb') as file:
          np.save(file, arrays[key], allow_pickle=False)
          file.flush()
          os.fsync(file.fileno())
      checksums = {key: [name, _checksum(partial / name)] for key, name in names.items()}
      files.write_json(partial / COUNTS, {'arrays': checksums, 'cut': dict(cut)})
      folder.parent.mkdir(exist_ok=True)
      if not (folder / COUNTS).exists():  # half deleted
        shutil.rmtree(folder, ignore_errors=True)
      os.rename(partial, folder)
    finally:
      shutil.rmtree(partial, ignore_errors=True)
  except OSError:  # no room, or another process was faster
    return


def _evict(root, budget):
  """Deletes abandoned folders, and the least recently used until at most `budget` bytes are left."""
  for folder in root.glob('begun-*'):
    if time.time() - folder.stat().st_mtime > ABANDONED:
      shutil.rmtree(folder, ignore_errors=True)
  entries = sorted(root.glob('*/*/' + COUNTS), key=lambda f: f.parent.stat().st_mtime)
  sizes = {f.parent: sum(x.stat().st_size for x in f.parent.iterdir()) for f in entries}
  total = sum(sizes.values())
  for folder, size in sizes.items():
    if total <= budget:
      break
    shutil.rmtree(folder, ignore_errors=True)
    total -= size


@functools.cache
def _code():
  """A hash of the source and the package versions that the content depends on."""
  root = Path(__file__).parents[1]
  code = [f for room in ('runtime', 'input', 'datasets') for f in sorted((root / room).glob('*.py'))]
  versions = [importlib.metadata.version(p) for p in ('pillow', 'tokenizers', 'tensorflow-datasets')]
  code += [root / name for name in ('types.py', 'registry.py', 'experiment/load.py')]
  return fingerprint(versions, [f.read_bytes() for f in code])
