"""Arrays out of the .npz and .npy files that NumPy writes, without the pickles that such a file may hold."""

import math
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from kdjax.errors import KdjaxError
from kdjax.runtime.files import regular_file
from kdjax.runtime.progress import size

WEIGHTS = 'params/'  # of big_vision's trainer, which keeps its optimiser beside them
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
TIMES, FREE = 20, 64_000_000  # bytes that weights may have for each of the file's, and in any file


def _array(archive, entry) -> np.ndarray:
  """An array that has as many bytes as its header announces."""
  if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError('it is packed in a way that NumPy does not write')
  with archive.open(entry) as file:  # which reads no more than the archive announces
    return _parse(file, entry.filename)


def _parse(file, name) -> np.ndarray:
  """The array of an open .npy file."""
  shape, fortran, dtype = HEADERS[npy.read_magic(file)](file)
  if dtype.hasobject:
    raise ValueError(f'{name[:80]!r} is an array of objects, which are pickles')
  raw = file.read()
  if not all(n >= 0 for n in shape) or len(raw) != math.prod(shape) * dtype.itemsize:
    raise ValueError(f'{name[:80]!r} has another number of bytes than its header')
  return np.frombuffer(raw, dtype).reshape(shape, order='F' if fortran else 'C')


def read_array(path: Path) -> np.ndarray:
  """The array of a .npy file, read-only.

  Raises:
    KdjaxError: if it is missing, damaged, or holds objects.
  """
  try:
    with open(regular_file(path, 'array'), 'rb') as file:
      return _parse(file, path.name)
  except Exception as e:  # a damaged file shows up as any of half a dozen types
    reason = ' '.join(str(e).split())[:160] or type(e).__name__
    raise KdjaxError(f'cannot read the array {path} ({reason}).') from e


def read(path: Path) -> dict[str, np.ndarray]:
  """Name -> array, read-only; of a trainer's checkpoint the weights alone, their names without 'params/'.

  Raises:
    KdjaxError: if it is missing, damaged, no .npz, holds an array of objects, or is packed so that it would
      take many times its own size.
  """
  try:
    with zipfile.ZipFile(regular_file(path, 'checkpoint')) as archive:
      entries = {e.filename.removesuffix('.npy'): e for e in archive.infolist()}
      names = [name for name in entries if name.startswith(WEIGHTS)] or list(entries)
      unpacked, packed = sum(entries[name].file_size for name in names), Path(path).stat().st_size
      if unpacked > FREE + TIMES * packed:
        raise ValueError(f'{size(unpacked)} are packed in {size(packed)}: save it with numpy.savez')
      return {name.removeprefix(WEIGHTS): _array(archive, entries[name]) for name in names}
  except Exception as e:  # a damaged file shows up as any of half a dozen types
    reason = ' '.join(str(e).split())[:160] or type(e).__name__
    raise KdjaxError(f'cannot read the model {path} ({reason}).') from e
