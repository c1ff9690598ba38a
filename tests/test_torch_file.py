"""Files of torch.save, written by hand: what is read of them, and what is refused."""

import os
import pickle
import random
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from kdjax.errors import KdjaxError
from kdjax.pretrained import torch_file
from torch_files import called, group, name, number, state, stream, tensor, text, zipped

BASE = np.arange(12, dtype=np.float32) / 3


@pytest.fixture(params=[zipped, stream], ids=['zip', 'stream'])
def saved(request, tmp_path):
  """`saved(body, storages)`: the path of a file of either format."""
  return lambda body, storages, **how: request.param(tmp_path / 'a.pth', body, storages, **how)


def refused(path):
  with pytest.raises(KdjaxError) as caught:
    torch_file.read(path)
  assert '\n' not in str(caught.value) and str(path) in str(caught.value)
  return str(caught.value)


def test_strides_and_offsets(saved):
  body = state(
    whole=tensor(shape=(3, 4), strides=(4, 1)),
    turned=tensor(shape=(4, 3), strides=(1, 4)),
    part=tensor(offset=5, shape=(2, 2), strides=(4, 2)),
    scalar=tensor(offset=7, shape=(), strides=()),
    empty=tensor(shape=(0, 4), strides=(4, 1)),
    parameter=called(name('torch._utils', '_rebuild_parameter'), tensor(), b'\x88', b'N'),
  )
  result = torch_file.read(saved(body, {'0': BASE}))
  matrix = BASE.reshape(3, 4)
  expected = {
    'whole': matrix,
    'turned': matrix.T,
    'part': matrix[1:, 1::2],
    'scalar': BASE[7],
    'empty': np.zeros((0, 4)),
    'parameter': BASE,
  }
  assert result.keys() == expected.keys()
  for key, x in expected.items():
    assert result[key].shape == x.shape and (result[key] == x).all(), key


def test_every_type(saved):
  kinds = {k: np.arange(4).astype(kind) for k, kind in torch_file.STORAGES.items()}
  body = state(**{k: tensor(k, k, 4, shape=(4,)) for k in kinds})
  result = torch_file.read(saved(body, kinds))
  assert result['BFloat16Storage'].dtype == ml_dtypes.bfloat16
  assert all(result[k].dtype == x.dtype and (result[k] == x).all() for k, x in kinds.items())


def test_the_weights_of_a_training_checkpoint(saved):
  body = b'}(' + text('epoch') + number(3) + text('state_dict') + state(a=tensor()) + b'u'
  assert list(torch_file.read(saved(body, {'0': BASE}))) == ['a']
  message = refused(
    saved(b'}(' + text('epoch') + number(3) + text('net') + state(a=tensor()) + b'u', {'0': BASE})
  )
  assert 'more than tensors: epoch (int), net (dict)' in message
  assert 'no dict of named tensors' in refused(saved(tensor(), {'0': BASE}))


class Touch:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f'touch {self.path}',)


def stacked(module, attribute):
  """A name as protocol 4 asks for it, by way of the stack, where it may have dots."""
  return text(module) + text(attribute) + b'\x93'


@pytest.mark.parametrize(
  ('body', 'named'),
  [
    (called(name('os', 'system'), text('true')), 'os.system'),
    (called(stacked('os', 'system'), text('true')), 'os.system'),
    (called(name('builtins', 'eval'), text('1')), 'builtins.eval'),
    (called(name('__builtin__', 'eval'), text('1')), '__builtin__.eval'),
    (called(name('builtins', 'getattr'), name('os', 'path'), text('join')), 'builtins.getattr'),
    (called(stacked('torch._utils', '_rebuild_tensor_v2.__globals__')), '_rebuild_tensor_v2.__globals__'),
    (name('collections', 'OrderedDict.__init__'), 'OrderedDict.__init__'),
    (called(name('numpy.core.multiarray', '_reconstruct')), 'numpy.core.multiarray._reconstruct'),
    (called(name('numpy._core.multiarray', 'scalar')), 'numpy._core.multiarray.scalar'),
    (called(name('torch._utils', '_rebuild_sparse_tensor')), 'torch._utils._rebuild_sparse_tensor'),
    (called(name('torch', 'load'), text('/etc/passwd')), 'torch.load'),
    (called(name('kdjax.pretrained.safetensors_io', 'export')), 'kdjax.pretrained.safetensors_io.export'),
    (b'(' + text('true') + b'ios\nsystem\n', 'os.system'),
    (name('torch', 'FloatStorage') + b')\x81', 'NEWOBJ'),
    (b'\x82\x01', 'EXT1'),
    (b'\x96' + struct.pack('<Q', 2**35), 'damaged (ValueError'),
    (b'\x96' + struct.pack('<Q', 1) + b'a', 'BYTEARRAY8'),
    (b'\x8e' + struct.pack('<Q', 2**60), 'damaged (ValueError'),
    (name('torch', 'FloatStorage') + b'}' + text('make') + b'Nsb', 'damaged'),
    (name('torch._utils', '_rebuild_tensor_v2') + b'N}' + text('make') + b'Ns\x86b', 'damaged'),
    (name('collections', 'OrderedDict') + b'}' + text('make') + b'Nsb', 'damaged'),
    (group(text('module'), text('a.py')) + b'Q', 'damaged'),
    (group(text('storage'), name('torch', 'Size'), text('0'), text('cpu'), number(1)) + b'Q', 'damaged'),
  ],
)
def test_nothing_is_run(saved, body, named):
  assert named in refused(saved(body, {'0': BASE}))
  assert named in refused(saved(state(a=tensor(), b=body), {'0': BASE}))
  assert torch_file.NAMES['torch', 'FloatStorage'].make is torch_file._parameter


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_a_shell_command(saved, tmp_path, protocol):
  evil = pickle.dumps({'a': Touch(tmp_path / 'ran')}, protocol)[2:-1]
  assert 'posix.system' in refused(saved(evil, {}))
  (tmp_path / 'b.pth').write_bytes(pickle.dumps(Touch(tmp_path / 'ran'), protocol))
  assert 'no file of torch.save' in refused(tmp_path / 'b.pth')
  assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
  'lie',
  [
    {'size': 2**31 - 1},
    {'size': 11},
    {'offset': 1},
    {'shape': (13,)},
    {'shape': (4, 4), 'strides': (3, 1)},
    {'shape': (2**30, 2**30), 'strides': (0, 0)},
    {'offset': -1},
    {'strides': (-1,)},
    {'shape': (-12,)},
    {'shape': (3, 4)},
    {'key': '1'},
    {'kind': 'DoubleStorage'},
  ],
)
def test_a_tensor_that_lies(saved, lie):
  assert 'damaged' in refused(saved(state(a=tensor(**lie)), {'0': BASE}))


def test_a_file_that_announces_more_than_it_holds(tmp_path):
  body = state(a=tensor(size=2**31 - 1))
  message = refused(stream(tmp_path / 'a.pth', body, {'0': BASE}, sizes={'0': 2**31 - 1}))
  assert '2147483647 numbers are announced and 48 bytes are left' in message
  refused(stream(tmp_path / 'a.pth', body, {'0': BASE}, sizes={'0': -1}))
  zeros = np.zeros(100_000, np.float32)
  body = state(a=tensor(size=100_000, shape=(100_000,)))
  assert 'it is packed' in refused(zipped(tmp_path / 'a.pth', body, {'0': zeros}, zipfile.ZIP_DEFLATED))
  memo = b'r' + struct.pack('<I', 2**32 - 1)
  assert 'a memo of 4294967295 entries' in refused(zipped(tmp_path / 'a.pth', state(a=tensor()) + memo, {}))


def test_calls_cannot_copy_a_value_again_and_again(saved):
  pairs = b'](' + b''.join(number(i) + b'N\x86' for i in range(2000)) + b'e'
  start = name('collections', 'OrderedDict') + b'q\x00' + pairs + b'\x85q\x01('
  message = refused(saved(start + b'h\x00h\x01R' * 300 + b't', {}))
  assert 'makes more than 100 times its own size' in message
  assert 'no dict of named tensors' in refused(saved(start + b'h\x00h\x01R' * 10 + b't', {}))


@pytest.mark.parametrize(
  'body',
  [
    called(name('torch', 'Size'), text('ab')),
    called(name('collections', 'OrderedDict'), b']' + text('ab') + b'a'),
    state(a=tensor().replace(group(number(12)), b']' + number(12) + b'a')),
  ],
  ids=['size', 'dict', 'tensor'],
)
def test_only_lists_are_taken_apart(saved, body):
  assert 'damaged' in refused(saved(body, {'0': BASE}))


def test_other_files(tmp_path):
  path = tmp_path / 'a.pth'
  for content in (b'', b'hello', b'PK\x03\x04', torch_file.MAGIC, torch_file.MAGIC + b'\x80\x02'):
    path.write_bytes(content)
    refused(path)
  assert 'No such file' in refused(tmp_path / 'none.pth')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a.txt', 'hello')
  assert 'not one that torch.save wrote' in refused(path)
  assert 'big-endian' in refused(zipped(path, state(a=tensor()), {'0': BASE}, order='big'))


def test_a_truncated_or_damaged_file_is_one_line(saved):
  path = saved(
    state(a=tensor(shape=(3, 4), strides=(4, 1)), b=tensor('1', size=4, shape=(4,))),
    {'0': BASE, '1': BASE[:4]},
  )
  whole, rng = path.read_bytes(), random.Random(0)
  for length in range(0, len(whole), 7):
    path.write_bytes(whole[:length])
    refused(path)
  for _ in range(300):
    bad = bytearray(whole)
    for _ in range(rng.choice((1, 3))):
      bad[rng.randrange(len(bad))] = rng.randrange(256)
    path.write_bytes(bad)
    try:
      assert all(x.size <= 16 for x in torch_file.read(path).values())
    except KdjaxError as e:
      assert '\n' not in str(e)
