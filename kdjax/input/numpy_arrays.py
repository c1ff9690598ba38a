"""Arrays of the .npy and .npz files that NumPy writes, without the pickles that such a file may hold."""

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from kdjax.errors import KdjaxError
from kdjax.runtime.files import regular_file
from kdjax.runtime.progress import size

HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
FREE = 64_000_000  # bytes that arrays may have in any file


def array(file: IO[bytes], name: str) -> np.ndarray:
  """A read-only array that has as many bytes as its header announces. Raises ValueError for any other."""
  shape, fortran, dtype = HEADERS[npy.read_magic(file)](file)
  if dtype.hasobject:
    raise ValueError(f'{name[:80]!r} is an array of objects, which are pickles')
  raw = file.read()
  if not all(n >= 0 for n in shape) or len(raw) != math.prod(shape) * dtype.itemsize:
    raise ValueError(f'{name[:80]!r} has another number of bytes than its header')
  return np.frombuffer(raw, dtype).reshape(shape, order='F' if fortran else 'C')


def read_npz(
  path: Path, what: str, times: int, wanted: Callable[[list[str]], list[str]] = lambda names: names
) -> dict[str, np.ndarray]:
  """Name -> array, read-only.

  Args:
    path: a .npz file.
    what: it is, for a message.
    times: bytes that arrays may have for each of the file's, beside `FREE`.
    wanted: the names to read, of all.

  Raises:
    KdjaxError: if it is missing, damaged, no .npz, holds an array of objects, or is packed so that it would
      take many times its own size.
  """
  try:
    with zipfile.ZipFile(regular_file(path, what)) as archive:
      entries = {e.filename.removesuffix('.npy'): e for e in archive.infolist()}
      names = wanted(list(entries))
      unpacked, packed = sum(entries[name].file_size for name in names), Path(path).stat().st_size
      if unpacked > FREE + times * packed:
        raise ValueError(f'{size(unpacked)} are packed in {size(packed)}: save it with numpy.savez')
      return {name: _entry(archive, entries[name]) for name in names}
  except Exception as e:  # a damaged file shows up as any of half a dozen types
    reason = ' '.join(str(e).split())[:160] or type(e).__name__
    raise KdjaxError(f'cannot read the {what} {path} ({reason}).') from e


def _entry(archive, entry):
  if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise ValueError('it is packed in a way that NumPy does not write')
  with archive.open(entry) as file:  # it reads no more than the archive announces
    return array(file, entry.filename)


def read_npy(source: Path | bytes, where: str) -> np.ndarray:
  """The array of a .npy file, or of the bytes of one.

  Raises:
    KdjaxError: if it is missing, damaged or an array of objects.
  """
  try:
    if isinstance(source, bytes):
      return array(io.BytesIO(source), where)
    with regular_file(source, 'array').open('rb') as file:
      return array(file, source.name)
  except Exception as e:  # as above
    reason = ' '.join(str(e).split())[:160] or type(e).__name__
    raise KdjaxError(f'{where}: cannot read the array ({reason}).') from e


def packed_files(arrays: Mapping[str, np.ndarray], path: Path, n: int) -> list[bytes]:
  """The n files of a .npz that has them in a row: 'jpeg' u8, and where each begins, 'offset' [n + 1].

  Raises:
    KdjaxError: if the offsets are not those of n files.
  """
  content, offset = arrays['jpeg'].tobytes(), arrays['offset']
  fits = offset.shape == (n + 1,) and offset.dtype.kind in 'iu'
  if not fits or offset[0] < 0 or np.any(offset[1:] <= offset[:-1]) or offset[-1] > len(content):
    raise KdjaxError(f'{path}: its offsets are not where {n:,} images begin and end.')
  return [content[offset[i] : offset[i + 1]] for i in range(n)]
