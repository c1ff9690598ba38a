"""Pickles of plain data and NumPy arrays, read without running any code."""

import math
import mmap
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input.restricted_unpickler import FULL, Allowed, Dialect, Unbuilt, cannot, load, whole_numbers
from kdjax.runtime.files import regular_file

KIND = re.compile(r'[<>=|]?([biu][1248]|f[248]|[SU]\d{1,7}|O[48]?)')
PLAIN = (str, bytes, bytearray, memoryview, bool, int, float, type(None), np.ndarray)


class _Dtype(Unbuilt):
  def __init__(self, kind, *_):
    super().__init__()
    if type(kind) is not str or not KIND.fullmatch(kind):
      raise ValueError(f'an array of {kind[:20]!r}' if type(kind) is str else 'an array of no type')
    self.dtype = np.dtype('O' if 'O' in kind else kind)

  def build(self, state):
    if (
      type(state) is not tuple
      or type(state[1]) is not str
      or state[1] not in ('<', '>', '=', '|')
      or any(x is not None for x in state[2:5])
    ):
      raise ValueError('an array of records')
    return self.dtype.newbyteorder(state[1])


class _Array(Unbuilt):
  def __init__(self, kind, *_):
    super().__init__()
    if kind is not ARRAYS.names['numpy', 'ndarray']:
      raise ValueError('an array of another class')

  def build(self, state):
    *_, shape, dtype, fortran, raw = state
    return _array(raw, dtype, shape, 'F' if fortran else 'C')


def _array(raw, dtype, shape, order: Literal['C', 'F'] = 'C', axes=None):
  """The array of raw bytes, as a view, or of a list of objects."""
  if not isinstance(dtype, np.dtype) or not whole_numbers(shape):
    raise ValueError('an array without a type or a shape')
  if dtype.hasobject:
    if type(raw) is not list or len(raw) != math.prod(shape):
      raise ValueError(f'an array {list(shape)} of another number of objects')
    if any(isinstance(value, np.ndarray) and value.dtype.hasobject for value in raw):
      # NumPy frees an array within the one that holds it: deep enough, the stack overflows.
      raise KdjaxError('it has an array of objects in an array of objects: save the inner ones as lists')
    array = np.empty(len(raw), object)
    for i, value in enumerate(raw):
      array[i] = value
  else:
    raw = raw.encode('latin-1') if type(raw) is str else raw
    if not isinstance(raw, bytes | bytearray | memoryview) or len(raw) != math.prod(shape) * dtype.itemsize:
      raise ValueError(f'an array {list(shape)} of another number of bytes')
    array = np.frombuffer(raw, dtype) if len(raw) else np.empty(0, dtype)
  array = array.reshape(shape, order='C' if axes is not None else order)
  return array if axes is None else array.transpose(axes)


def _encoded(text, coding):
  if type(text) is not str or coding not in ('latin1', 'latin-1'):
    raise ValueError('a text in another coding than latin-1')
  return text.encode('latin-1')


def _never(*_):
  raise ValueError('a call of what is no function')


_NAMES = {
  ('numpy', 'ndarray'): Allowed('ndarray', _never),
  ('numpy', 'dtype'): Allowed('dtype', _Dtype),
  ('_codecs', 'encode'): Allowed('encode', _encoded),  # how Python 3 writes bytes for Python 2
  ('__builtin__', 'bytes'): Allowed('bytes', lambda: b''),
  ('builtins', 'bytes'): Allowed('bytes', lambda: b''),
}
for _core in ('numpy.core', 'numpy._core'):
  _NAMES[f'{_core}.multiarray', '_reconstruct'] = Allowed('_reconstruct', _Array)
  _NAMES[f'{_core}.multiarray', 'scalar'] = Allowed('scalar', lambda dtype, raw: _array(raw, dtype, ())[()])
  _NAMES[f'{_core}.numeric', '_frombuffer'] = Allowed('_frombuffer', _array)
ARRAYS = Dialect(
  _NAMES, FULL, 'plain value or NumPy array', 'a data file: save it again as dicts, lists and arrays'
)


def _check(loaded):
  """Raises ValueError for anything but plain values, at any depth; visits each container once."""
  pending, visited = [loaded], set()
  while pending:
    value = pending.pop()
    children = ()
    if type(value) in (dict, list, tuple):
      children = value.values() if type(value) is dict else value
    elif type(value) not in PLAIN and not isinstance(value, np.generic):
      raise ValueError(f'a {type(value).__name__.lstrip("_").lower()} where a plain value should be')
    elif type(value) is np.ndarray and value.dtype.hasobject:
      children = value.flat
    if id(value) not in visited:
      visited.add(id(value))
      pending.extend(children)


def read(path: str | Path) -> Any:
  """What a pickle of protocol 0 to 5 holds: dicts, lists, tuples, strings, numbers, None and NumPy arrays.

  Arrays are of numbers, strings, or objects of these kinds, and read-only: they are views of the file, so
  that one larger than the memory can be read; long bytes come as such a view too. A string of Python 2 is
  decoded as latin-1.

  Raises:
    KdjaxError: if it is damaged, no such file, or contains anything else; it names what.
  """
  try:
    with regular_file(path, 'data file').open('rb') as file:
      mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closes with the last view of it
    value = load(mapped, ARRAYS)
    _check(value)
    return value
  except Exception as e:  # a damaged pickle shows up as any of a dozen types
    raise cannot(Path(path), e) from e
