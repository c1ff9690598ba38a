"""Splits as they were read and decoded once, kept on disk for the next start.

A split is kept where its data set names the `files` that it comes from. What is kept is found again by the
size and time of these, by all of `config.data` that its content depends on, by the vocabulary, and by the
code of kdjax that reads; where any of them is another, the split is read anew.
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

LARGEST = 10e9  # bytes of all that is kept: what was not asked for longest goes first
MOST = 200_000  # files that are looked at before anything is read
SLOW = 1.0  # seconds of reading from which a split is worth keeping
BEGUN = 3600.0  # seconds after which a folder that was begun is one that nobody finishes
COUNTS = 'cut.json'
SCHEMA = {'arrays': {str: [(str, int)]}, 'cut': {str: int}}
BLOCK = 2**24  # bytes of a file under one checksum


def cache_path(cache: str, files: Iterable[Path], *parts: Any) -> Path | None:
  """Where the splits read from `files` are kept, or None where they cannot be known again.

  Args:
    cache: the folder of everything that is kept for the next start; '' keeps nothing.
    files: what the content of the data set comes from.
    *parts: whatever else decides what is read.
  """
  files = sorted({*map(Path, files)})
  if not cache or not 0 < len(files) <= MOST:
    return None
  try:
    stats = [(str(f.absolute()), s.st_size, s.st_mtime_ns) for f in files for s in (f.stat(),)]
  except OSError:  # whoever reads it says so better
    return None
  return user_path(cache) / 'decoded' / fingerprint(stats, parts, _code())


def usable(cache: str) -> str:
  """The folder of everything that is kept for the next start; '', and a line, where it cannot be written."""
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
  """The arrays of a split, read-only and in memory when they are used, and how many texts are cut."""
  if folder is None or not (folder / COUNTS).exists():
    return None
  try:
    counts = files.read_json(folder / COUNTS, SCHEMA, 'it is read again')
    if wrong := [name for name, mark in counts['arrays'].values() if _checksum(folder / name) != mark]:
      raise ValueError(f'{folder / wrong[0]} is not what was written')
    arrays = {k: np.load(folder / name, mmap_mode='r') for k, (name, _) in counts['arrays'].items()}
    with contextlib.suppress(OSError):  # it is not ours
      os.utime(folder)
  except (KdjaxError, OSError, ValueError, EOFError) as e:
    progress.say(f'decoded data are damaged, and read again: {e}')
    shutil.rmtree(folder, ignore_errors=True)
    return None
  return {k: v.view(np.ndarray) for k, v in arrays.items()}, counts['cut']


def _checksum(path: Path) -> int:
  """CRC-32 of a file, over its blocks in as many threads as there are cores."""
  blocks = range(0, path.stat().st_size, BLOCK)

  def one(at):
    with path.open('rb') as file:
      file.seek(at)
      return zlib.crc32(file.read(BLOCK))

  return zlib.crc32(np.array(in_threads(one, blocks), np.uint32).tobytes())


def save(folder: Path | None, arrays: Mapping[str, np.ndarray], cut: Mapping[str, int]) -> None:
  """Keeps the arrays of a split, whole or not at all; a full disk is no error."""
  size = sum(v.nbytes for v in arrays.values())
  if folder is None or size > LARGEST:
    return
  above = folder.parent.parent
  try:
    above.mkdir(parents=True, exist_ok=True)
    _make_room(above, LARGEST - size)
    begun = Path(tempfile.mkdtemp(prefix='begun-', dir=above))
    try:
      names = {key: f'{i}.npy' for i, key in enumerate(arrays)}
      for key, name in names.items():
        with (begun / name).open('wb') as file:
          np.save(file, arrays[key], allow_pickle=False)
          file.flush()
          os.fsync(file.fileno())
      marks = {key: [name, _checksum(begun / name)] for key, name in names.items()}
      files.write_json(begun / COUNTS, {'arrays': marks, 'cut': dict(cut)})
      folder.parent.mkdir(exist_ok=True)
      if not (folder / COUNTS).exists():  # half deleted
        shutil.rmtree(folder, ignore_errors=True)
      os.rename(begun, folder)
    finally:
      shutil.rmtree(begun, ignore_errors=True)
  except OSError:  # no room, or another process was faster
    return


def _make_room(above, room):
  """Deletes what nobody finished, and what was not asked for longest until `room` bytes are kept."""
  for folder in above.glob('begun-*'):
    if time.time() - folder.stat().st_mtime > BEGUN:
      shutil.rmtree(folder, ignore_errors=True)
  kept = sorted(above.glob('*/*/' + COUNTS), key=lambda f: f.parent.stat().st_mtime)
  sizes = {f.parent: sum(x.stat().st_size for x in f.parent.iterdir()) for f in kept}
  total = sum(sizes.values())
  for folder, size in sizes.items():
    if total <= room:
      break
    shutil.rmtree(folder, ignore_errors=True)
    total -= size


@functools.cache
def _code():
  """Of all modules and packages that decide what is read."""
  root = Path(__file__).parents[1]
  code = [f for room in ('runtime', 'input', 'datasets') for f in sorted((root / room).glob('*.py'))]
  versions = [importlib.metadata.version(p) for p in ('pillow', 'tokenizers', 'tensorflow-datasets')]
  code += [root / name for name in ('types.py', 'registry.py', 'experiment/load.py')]
  return fingerprint(versions, [f.read_bytes() for f in code])
