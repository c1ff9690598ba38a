"""Tensors out of the files that `torch.save` writes, without torch and without running any code."""

import io
import math
import mmap
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import restricted_unpickler
from kdjax.input.restricted_unpickler import Allowed, whole_numbers
from kdjax.runtime.files import regular_file

MAGIC = b'\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.'  # a pickle of torch's own number, before 1.6
STORAGES = {
  'DoubleStorage': np.float64,
  'FloatStorage': np.float32,
  'HalfStorage': np.float16,
  'BFloat16Storage': ml_dtypes.bfloat16,
  'LongStorage': np.int64,
  'IntStorage': np.int32,
  'ShortStorage': np.int16,
  'CharStorage': np.int8,
  'ByteStorage': np.uint8,
  'BoolStorage': np.bool_,
}
INSIDE = ('state_dict', 'model_state_dict', 'model', 'module')  # where training scripts keep the weights


class _Dict(dict):
  __slots__ = ()

  def build(self, state):
    """Leaves out a state dict's `_metadata`, which says nothing about tensors."""
    return self


def _sequence(values=()):
  if type(values) not in (list, tuple):  # of a string, each letter would become a string
    raise ValueError(f'a {type(values).__name__} in place of a list')
  return tuple(values)


def _ordered(pairs=()):
  ordered = _Dict()
  restricted_unpickler.put(
    ordered, [x for key, value in map(_sequence, _sequence(pairs)) for x in (key, value)]
  )
  return ordered


class _Storage(NamedTuple):
  key: str
  dtype: np.dtype
  size: int  # elements


class _Tensor(NamedTuple):
  storage: _Storage
  offset: int  # in elements, as the strides are
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def _tensor(storage, offset, shape, strides, *_):
  if type(storage) is not _Storage or not whole_numbers((offset,)):
    raise ValueError('a tensor that is none')
  if not whole_numbers(shape) or not whole_numbers(strides) or len(shape) != len(strides):
    raise ValueError('a tensor without a shape')
  last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
  if 0 not in shape and (last >= storage.size or math.prod(shape) > storage.size):
    raise ValueError(f'a tensor {list(shape)} that is larger than its storage of {storage.size}')
  return _Tensor(storage, offset, shape, strides)


def _parameter(tensor, *_):
  return tensor


NAMES = {
  ('collections', 'OrderedDict'): Allowed('OrderedDict', _ordered),
  ('torch', 'Size'): Allowed('Size', _sequence),
  ('torch._utils', '_rebuild_tensor'): Allowed('tensor', _tensor),
  ('torch._utils', '_rebuild_tensor_v2'): Allowed('tensor', _tensor),
  ('torch._utils', '_rebuild_parameter'): Allowed('parameter', _parameter),
} | {('torch', name): Allowed(name, _parameter, np.dtype(kind)) for name, kind in STORAGES.items()}


def _unpickle(file) -> tuple[Any, dict[str, _Storage]]:
  """The next pickle of a file in memory, and key -> storage, of all storages that it refers to."""
  storages = {}

  def storage(pid):
    kind, cls, key, _, size, *view = pid
    if kind != 'storage' or type(cls) is not Allowed or cls.dtype is None or any(v is not None for v in view):
      raise ValueError('a persistent id that is no plain storage')
    if type(key) is not str or len(key) > restricted_unpickler.KEY or not whole_numbers((size,)):
      raise ValueError('a storage without a key or a size')
    entry = _Storage(key, cls.dtype, size)
    if storages.setdefault(key, entry) != entry:
      raise ValueError(f'two storages of the key {key}')
    return entry

  instead = 'a checkpoint: save model.state_dict() alone, or as safetensors'
  dialect = restricted_unpickler.Dialect(
    NAMES, restricted_unpickler.BASIC | {'BINPERSID'}, 'tensor', instead, storage
  )
  return restricted_unpickler.load(file, dialect), storages


def _state_dict(saved: Any) -> dict[str, _Tensor]:
  """The state dict that was saved, or the one inside a training checkpoint."""

  def weights(value):
    return isinstance(value, dict) and value and all(type(v) is _Tensor for v in value.values())

  if not isinstance(saved, dict):
    raise KdjaxError(f'it holds a {type(saved).__name__.lstrip("_").lower()} and no dict of named tensors')
  for inner in (saved, *(saved[k] for k in INSIDE if k in saved)):
    if weights(inner) and all(type(k) is str for k in inner):
      return dict(inner)
  other = [
    f'{k} ({type(v).__name__.lstrip("_").lower()})' for k, v in saved.items() if type(v) is not _Tensor
  ]
  raise KdjaxError(f'it holds more than tensors: {", ".join(other[:5]) or "nothing"}')


def _arrays(tensors: Mapping[str, _Tensor], data: Mapping[str, bytes]) -> dict[str, np.ndarray]:
  """Views of the storages' bytes."""
  arrays = {}
  for name, (storage, offset, shape, strides) in tensors.items():
    if len(data[storage.key]) != storage.size * storage.dtype.itemsize:
      raise ValueError(f'the storage of {name} has another number of values than announced')
    flat = np.frombuffer(data[storage.key], storage.dtype)
    steps = [step * storage.dtype.itemsize for step in strides]
    arrays[name] = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)
  if sum(x.nbytes for x in arrays.values()) > 1_000_000 + 4 * sum(map(len, data.values())):
    raise ValueError('many tensors of the same numbers')  # whoever copies them would need that much
  return arrays


def _read_zip(file, size: int) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(file) as archive:
    entries = archive.infolist()
    if sum(e.file_size for e in entries) > size or any(e.compress_type for e in entries):
      raise ValueError('it is packed, which torch does not do')
    pickles = [e.filename for e in entries if e.filename.count('/') == 1 and e.filename.endswith('/data.pkl')]
    if len(pickles) != 1:
      raise KdjaxError('it is a zip archive, and not one that torch.save wrote')
    folder = pickles[0].removesuffix('data.pkl')
    order = f'{folder}byteorder'
    if order in archive.namelist() and archive.read(order) != b'little':
      raise KdjaxError('its numbers are big-endian: save it again on another machine')
    tensors = _state_dict(_unpickle(io.BytesIO(archive.read(pickles[0])))[0])
    keys = {t.storage.key for t in tensors.values()}
    return _arrays(tensors, {k: archive.read(f'{folder}data/{k}') for k in keys})


def _read_stream(file, size: int) -> dict[str, np.ndarray]:
  file.seek(len(MAGIC))
  (protocol, _), (system, _) = _unpickle(file), _unpickle(file)
  if protocol != 1001 or system.get('little_endian') is not True:
    raise KdjaxError('its format or its order of bytes is unknown: save it again')
  saved, storages = _unpickle(file)
  tensors, data = _state_dict(saved), {}
  keys = _unpickle(file)[0]
  if type(keys) is not list or not all(type(key) is str for key in keys):
    raise ValueError('keys that are no texts')
  for key in keys:
    (n,) = struct.unpack('<q', file.read(8))
    length = n * storages[key].dtype.itemsize
    if not 0 <= length <= size - file.tell():
      raise ValueError(f'{n} numbers are announced and {size - file.tell()} bytes are left')
    data[key] = file.read(length)
  return _arrays(tensors, data)


def read(path: Path) -> dict[str, np.ndarray]:
  """Name -> array (a read-only view) of a file of either format of `torch.save`.

  Nothing but tensors is understood, in a dict of names or under 'state_dict' or 'model' of one. No size is
  trusted that the file does not confirm: the numbers are held once, and their names and shapes are bounded
  as in `restricted_unpickler.load`.

  Raises:
    KdjaxError: if it is damaged, no such file, or refers to anything else, which the message names.
  """
  try:
    size = regular_file(path, 'checkpoint').stat().st_size
    with Path(path).open('rb') as file:
      start = file.read(len(MAGIC))
      file.seek(0)
      if start == MAGIC:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # reads no more than there is
        return _read_stream(mapped, size)
      if start.startswith(b'PK'):
        return _read_zip(file, size)
  except Exception as e:  # a damaged pickle shows up as any of a dozen types
    raise restricted_unpickler.cannot(path, e) from e
  raise KdjaxError(f'cannot load {path}: it is no file of torch.save.')
