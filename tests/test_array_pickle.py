"""Pickles that strangers hand about: plain data and arrays come back, and nothing else is let in."""

import os
import pickle
import random
import struct
import sys

import numpy as np
import pytest

from kdjax.errors import KdjaxError
from kdjax.input.numpy_pickle import read
from torch_files import called, group, name, number, text

RNG = np.random.default_rng(0)
DATA = {
  'floats': RNG.normal(size=(5, 4, 3)).astype(np.float32),
  'longer than what is copied': RNG.normal(size=(50, 40, 3)),
  'columns first': np.asfortranarray(RNG.normal(size=(30, 40))),
  'every second row': RNG.normal(size=(6, 6))[::2],
  'big-endian': np.arange(5, dtype='>f8'),
  'empty': np.zeros((0, 3)),
  'a number': np.array(3.0),
  'truths': np.array([True, False]),
  'half': np.arange(4, dtype=np.float16),
  'texts': np.array(['a', 'bcé']),
  'bytes of texts': np.array([b'a', b'bcd']),
  'objects': np.array(['x', 'yy' * 30, None, 3], object),
  'scalar': np.float32(2.5),
  'text scalar': np.str_('hey'),
  'list': ['a', 'é\n', 3, 2.5, None, True, -5, 2**40, b'abc', b'', ('t', 1), {}, []],
  'same': [[1], [1]],
}


@pytest.mark.parametrize('protocol', range(6))
def test_what_is_plain_comes_back(tmp_path, protocol):
  path = tmp_path / 'a.pkl'
  path.write_bytes(pickle.dumps({'train': DATA, 7: b'x' * 5000}, protocol))
  whole = read(path)
  assert bytes(whole[7]) == b'x' * 5000
  result = whole['train']
  assert list(result) == list(DATA)
  for key, x in DATA.items():
    assert type(result[key]) is type(x), key
    if isinstance(x, np.ndarray):
      assert (result[key].dtype, result[key].shape) == (x.dtype, x.shape) and (result[key] == x).all(), key
    else:
      assert result[key] == x, key


def test_arrays_are_views_of_the_file(tmp_path):
  (tmp_path / 'a.pkl').write_bytes(pickle.dumps(np.zeros(10_000), 4))
  result = read(tmp_path / 'a.pkl')
  assert not result.flags.writeable and not result.flags.owndata


def test_a_file_of_python_2(tmp_path):
  """Its strings are bytes, arrays included: 'c' of numpy.core, and 'T', 'U' or 'S' of the numbers."""
  remaining = b'(I3\nS"<"\nNNNI-1\nI-1\nI0\ntb'
  kind = called(name('numpy', 'dtype'), b"S'f8'\n", b'I0\n', b'I1\n') + remaining
  numbers = np.array([1.5, -2.0])
  for raw in (
    b'T' + struct.pack('<i', 16) + numbers.tobytes(),
    b'U\x10' + numbers.tobytes(),
    b"S'" + ''.join(f'\\x{b:02x}' for b in numbers.tobytes()).encode() + b"'\n",
  ):
    head = called(
      name('numpy.core.multiarray', '_reconstruct'), name('numpy', 'ndarray'), b'(I0\nt', b"S'b'\n"
    )
    array = head + b'(I1\n(I2\nt' + kind + b'I00\n' + raw + b'tb'
    (tmp_path / 'a.pkl').write_bytes(b'(dp1\n' + b"S'train'\n" + array + b's.')
    np.testing.assert_array_equal(read(tmp_path / 'a.pkl')['train'], numbers)


@pytest.fixture
def refused(tmp_path):
  """The one line about a file of these bytes."""

  def refuse(body):
    path = tmp_path / 'a.pkl'
    path.write_bytes(body)
    with pytest.raises(KdjaxError) as caught:
      read(path)
    message = str(caught.value)
    assert '\n' not in message and str(path) in message and len(message) < 500
    return message

  return refuse


class Touch:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f'touch {self.path}',)


@pytest.mark.parametrize('protocol', range(6))
def test_a_shell_command_is_not_run(refused, tmp_path, protocol):
  for evil in (Touch(tmp_path / 'ran'), {'train': {'text': [Touch(tmp_path / 'ran')]}}):
    assert 'posix.system' in refused(pickle.dumps(evil, protocol))
  assert not (tmp_path / 'ran').exists()


def stacked(module, attribute):
  return text(module) + text(attribute) + b'\x93'


def dtype(kind='f8', order='<', fields=b'NNN'):
  return called(name('numpy', 'dtype'), text(kind), b'\x89', b'\x88') + (
    b'(' + number(3) + text(order) + fields + number(-1) + number(-1) + number(0) + b'tb'
  )


def array(shape=(2,), kind=None, raw=b'C\x10' + bytes(16), of=None):
  of = name('numpy', 'ndarray') if of is None else of
  head = called(name('numpy.core.multiarray', '_reconstruct'), of, group(number(0)), b'C\x01b')
  shape = group(*map(number, shape))
  return head + b'(' + number(1) + shape + (kind or dtype()) + b'\x89' + raw + b'tb'


def test_these_bodies_are_well_made(tmp_path):
  (tmp_path / 'a.pkl').write_bytes(array() + b'.')
  np.testing.assert_array_equal(read(tmp_path / 'a.pkl'), np.zeros(2))


@pytest.mark.parametrize(
  ('body', 'named'),
  [
    (called(name('builtins', 'eval'), text('1')), 'builtins.eval'),
    (called(name('__builtin__', 'exec'), text('1')), '__builtin__.exec'),
    (called(name('builtins', 'getattr'), name('numpy', 'dtype'), text('type')), 'builtins.getattr'),
    (called(stacked('os', 'system'), text('true')), 'os.system'),
    (stacked('numpy', 'dtype.__class__'), 'numpy.dtype.__class__'),
    (stacked('numpy', '\x1b[2J\n'), 'numpy.\\x1b[2J\\n'),
    (name('antigravity', 'fly'), 'antigravity.fly'),
    (called(name('numpy', 'load'), text('/etc/passwd')), 'numpy.load'),
    (called(name('numpy', 'fromfile'), text('/etc/passwd')), 'numpy.fromfile'),
    (called(name('numpy', 'memmap'), text('x')), 'numpy.memmap'),
    (called(name('numpy.core.numeric', 'empty'), number(2**30)), 'numpy.core.numeric.empty'),
    (called(name('builtins', 'bytes'), number(2**30)), 'damaged (TypeError'),
    (called(name('builtins', 'bytearray'), number(2**30)), 'builtins.bytearray'),
    (called(name('_codecs', 'encode'), text('x'), text('rot13')), 'damaged'),
    (called(name('_codecs', 'decode'), text('x')), '_codecs.decode'),
    (called(name('numpy', 'ndarray'), group(number(2**30))), 'damaged'),
    (called(text('x')), 'damaged'),
    (name('numpy', 'dtype') + b'}' + text('make') + b'Nsb', 'damaged'),
    (b'}}' + text('a') + b'Nsb', 'a state of a dict'),
    (b'(' + text('true') + b'ios\nsystem\n', 'os.system'),
    (b'(' + text('x') + b'o', 'OBJ'),
    (name('numpy', 'dtype') + b')\x81', 'NEWOBJ'),
    (b'\x82\x01', 'EXT1'),
    (text('x') + b'Q', 'BINPERSID'),
    (b'Px\n', 'PERSID'),
    (b'\x97', 'NEXT_BUFFER'),
    (b'\x8b' + struct.pack('<i', 4) + b'aaaa', 'LONG4'),
    (name('numpy', 'dtype'), 'allowed where a plain value should be'),
    (dtype(), 'where a plain value should be'),
    (called(name('numpy', 'dtype'), text('f8')), 'dtype where a plain value should be'),
    (b'](' + name('numpy', 'ndarray') + b'e', 'where a plain value should be'),
    (array(kind=dtype('O', '|')), 'another number of objects'),  # pointers made of bytes
    (called(name('numpy.core.multiarray', 'scalar'), dtype('O', '|'), b'C\x08' + bytes(8)), 'damaged'),
    (array(kind=dtype('V8', '|')), "an array of 'V8'"),
    (array(kind=dtype('f8,O')), "an array of 'f8,O'"),
    (array(kind=dtype(fields=b'N' + group(text('a')) + b'}')), 'an array of records'),
    (array(shape=(-2,)), 'damaged'),
    (array(shape=(3,)), 'another number of bytes'),
    (array(shape=(2**30, 2**30)), 'another number of bytes'),
    (array(shape=(2,) * 70 + (0,), raw=b'C\x00'), 'damaged'),
    (array(of=name('numpy', 'dtype')), 'an array of another class'),
    (array(raw=b']'), 'another number of bytes'),
    (array(kind=text('f8')), 'an array without a type'),
  ],
)
def test_nothing_else_is_let_in(refused, body, named):
  assert named in refused(body + b'.')
  assert named in refused(b'\x80\x02}' + text('train') + b'}' + text('text') + body + b'ss.')
  assert 'antigravity' not in sys.modules


@pytest.mark.parametrize(
  'body',
  [
    b'',
    b'.',
    b'hello',
    b'\x80\x04',
    b'(((((.',
    b'0.',
    b'R.',
    b'b.',
    b'K\x01K\x02s.',
    b'h\x00.',
    b'l.',
    b'e.',
    b'\x96' + struct.pack('<Q', 2**40) + b'.',
    b'\x8e' + struct.pack('<Q', 2**63) + b'.',
    b'B' + struct.pack('<I', 2**32 - 1) + b'.',
    b'X' + struct.pack('<I', 2**32 - 1) + b'.',
    b'T' + struct.pack('<i', -1) + b'.',
    b'N' + b'r' + struct.pack('<I', 2**32 - 1) + b'.',
    b'Np4294967295\n.',
    b'L' + b'9' * 5000 + b'L\n.',
    b"S'a\n.",
    b'VXX\\ud8zz\n.',
    b'}]Ns.',
    b'}(NN' + b'u.',
    b'})Ns.',
  ],
)
def test_what_is_damaged_or_lies_about_its_size(refused, body):
  refused(body)


def test_bombs(refused, tmp_path):
  """A thousand names of a name: shared parts stay shared, are no keys, and are walked through once."""
  parts = [b'h' + bytes([i]) + b'\x86q' + bytes([i + 1]) for i in range(99)]
  double = b')q\x00' + b''.join(parts)
  assert 'a tuple as the key' in refused(b'}' + double + b'Ns.')
  (tmp_path / 'b.pkl').write_bytes(double + b'.')
  assert len(read(tmp_path / 'b.pkl')) == 2
  (tmp_path / 'b.pkl').write_bytes(b']q\x00h\x00a.')  # a list that holds itself
  assert len(read(tmp_path / 'b.pkl')) == 1
  (tmp_path / 'b.pkl').write_bytes(b']' * 100_000 + b'a' * 99_999 + b'.')
  assert len(read(tmp_path / 'b.pkl')) == 1
  assert 'as the key' in refused(
    b'}\x8a\x09' + struct.pack('<q', 2**61 - 1) + b'\x00Ns.'
  )  # they all hash to 0


FROM_BUFFER = name('numpy.core.numeric', '_frombuffer')


@pytest.mark.parametrize(
  'call',
  [
    (name('_codecs', 'encode'), text('a' * 40_000), text('latin1')),
    (FROM_BUFFER, text('a' * 40_000), dtype(), group(number(5000)), text('C')),
    (FROM_BUFFER, b'](' + b'N' * 40_000 + b'e', dtype('O', '|'), group(number(40_000)), text('C')),
  ],
  ids=['bytes', 'numbers', 'objects'],
)
def test_calls_cannot_copy_a_value_again_and_again(refused, tmp_path, call):
  result, *inputs = call
  start = result + b'q\x00' + group(*inputs) + b'q\x01]('
  (tmp_path / 'b.pkl').write_bytes(start + b'h\x00h\x01R' * 10 + b'e.')
  assert len(read(tmp_path / 'b.pkl')) == 10
  assert 'makes more than 100 times its own size' in refused(start + b'h\x00h\x01R' * 1000 + b'e.')


def test_an_array_of_objects_in_another_is_refused(refused):
  """Very many of them, each in the next, would overflow the stack when they are freed."""
  inner = array(shape=(1,), kind=dtype('O', '|'), raw=b']' + text('a') + b'a')
  outer = array(shape=(1,), kind=dtype('O', '|'), raw=b']' + inner + b'a')
  assert 'an array of objects in an array of objects' in refused(outer + b'.')


def test_a_truncated_or_damaged_file_is_one_line(tmp_path, refused):
  path, rng = tmp_path / 'a.pkl', random.Random(0)
  for protocol in (0, 2, 4, 5):
    whole = pickle.dumps({k: v for k, v in DATA.items() if getattr(v, 'size', 0) < 100}, protocol)
    for length in range(0, len(whole), 29):
      refused(whole[:length])
    for _ in range(100):
      bad = bytearray(whole)
      for _ in range(rng.choice((1, 3))):
        bad[rng.randrange(len(bad))] = rng.randrange(256)
      path.write_bytes(bad)
      try:
        read(path)
      except KdjaxError as e:
        assert '\n' not in str(e)


def test_no_such_file(tmp_path):
  with pytest.raises(KdjaxError, match='none.pkl: No such file or directory'):
    read(tmp_path / 'none.pkl')
