"""Files as torch.save writes them, put together by hand, opcode by opcode."""

import pickle
import struct
import zipfile

import numpy as np

from kdjax.pretrained import torch_file

SYSTEM = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'short': 2, 'int': 4, 'long': 4}}


def text(value):
  return b'X' + struct.pack('<I', len(value)) + value.encode()


def number(value):
  return b'J' + struct.pack('<i', value)


def name(module, attribute):
  return f'c{module}\n{attribute}\n'.encode()


def group(*parts):
  return b'(' + b''.join(parts) + b't'


def called(what, *args):
  return what + group(*args) + b'R'


def tensor(key='0', kind='FloatStorage', size=12, offset=0, shape=(12,), strides=(1,)):
  storage = group(text('storage'), name('torch', kind), text(key), text('cpu'), number(size)) + b'Q'
  shape, strides = (group(*map(number, x)) for x in (shape, strides))
  hooks = called(name('collections', 'OrderedDict'))
  return called(
    name('torch._utils', '_rebuild_tensor_v2'), storage, number(offset), shape, strides, b'\x89', hooks
  )


def entry(key, x):
  """The tensor that is the whole of an array's storage."""
  kind = 'LongStorage' if x.dtype == np.int64 else 'FloatStorage'
  strides = tuple(n // x.itemsize for n in np.ascontiguousarray(x).strides)
  return tensor(key, kind, x.size, 0, x.shape, strides[: x.ndim])


def state(**tensors):
  entries = b''.join(text(k) + v for k, v in tensors.items())
  return called(name('collections', 'OrderedDict')) + b'(' + entries + b'u'


def zipped(path, body, storages, packed=zipfile.ZIP_STORED, order='little'):
  with zipfile.ZipFile(path, 'w', packed) as archive:
    archive.writestr('a/data.pkl', b'\x80\x02' + body + b'.')
    archive.writestr('a/byteorder', order)
    for key, x in storages.items():
      archive.writestr(f'a/data/{key}', x.tobytes())
  return path


def stream(path, body, storages, sizes=None):
  parts = [torch_file.MAGIC, pickle.dumps(1001, 2), pickle.dumps(SYSTEM, 2), b'\x80\x02' + body + b'.']
  parts.append(pickle.dumps(list(storages), 2))
  for key, x in storages.items():
    parts += [struct.pack('<q', (sizes or {}).get(key, x.size)), x.tobytes()]
  path.write_bytes(b''.join(parts))
  return path
