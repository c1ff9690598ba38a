"""Files from strangers: none runs anything, hangs, or takes more memory than its size bears out."""

import csv
import json
import os
import pickle
import random
import socket
import struct
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from kdjax.datasets import image_text, manifest
from kdjax.errors import KdjaxError
from kdjax.input import (
  audio_files,
  images,
  numpy_pickle,
  restricted_unpickler,
  table_file,
  tfds_source,
  tokenizer,
)
from kdjax.pretrained import find, numpy_file, safetensors_io, torch_file
from kdjax.runtime import files
from kdjax.runtime.described import described
from torch_files import SYSTEM, called, group, name, number, state, stream, tensor, text, zipped

READERS = {
  'image': lambda path: images.read_image(path, 'here'),
  'sound': lambda path: audio_files.read_sound(path, 100, 'here'),
  'pickle': numpy_pickle.read,
  'safetensors': safetensors_io.read,
  'torch': torch_file.read,
  'npz': numpy_file.read,
  'tokenizer': tokenizer.load,
  'checkpoint': lambda path: find.files(str(path)),
  'table': table_file.rows,
  'pairs': image_text.Lines,
}


def refused(read, path, *parts):
  """The one line that `read` says of a file."""
  with pytest.raises(KdjaxError) as caught:
    read(path)
  message = str(caught.value)
  assert '\n' not in message and len(message) < 2000
  assert all(part in message for part in parts), message
  return message


@pytest.mark.parametrize('kind', READERS)
def test_what_is_no_file_is_not_opened(tmp_path, kind):
  os.mkfifo(tmp_path / 'pipe')
  refused(READERS[kind], tmp_path / 'pipe', 'is a pipe')
  (tmp_path / 'link').symlink_to('pipe')
  refused(READERS[kind], tmp_path / 'link', 'is a pipe')
  refused(READERS[kind], Path('/dev/zero'), 'is a device')
  refused(READERS[kind], Path('a\0b'), 'the name of no file')
  refused(READERS[kind], tmp_path / ('a' * 300))
  if kind != 'checkpoint':
    refused(READERS[kind], tmp_path, 'is a folder')


def test_a_file_has_a_kind_and_a_size(tmp_path, monkeypatch):
  path = tmp_path / 'a'
  path.write_bytes(b'abc')
  assert files.regular_file(path, most=3) == path
  refused(lambda p: files.regular_file(p, 'list', most=2), path, 'has 3 bytes, and a list has at most 2')
  with pytest.raises(FileNotFoundError):
    files.regular_file(tmp_path / 'none')
  with socket.socket(socket.AF_UNIX) as server:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    server.bind('s')
    refused(files.regular_file, Path('s'), 'is a socket')


SAMPLE = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
PLAIN = {
  'a': SAMPLE,
  'words': ['x', 'é', 'y' * 30],
  'n': 2**40,
  'o': np.array(['x', None], object),
  'b': b'z' * 9,
}
ROWS = [
  {'image': 'a.png', 'text': f'what colour is {i}?', 'label': 'red', 'split': 'train'} for i in range(4)
]


def tensors(kind):
  body = state(a=tensor(shape=(3, 4), strides=(4, 1)), b=tensor('1', size=4, shape=(4,)))
  return lambda path: kind(path, body, {'0': SAMPLE.ravel(), '1': SAMPLE[0]})


def image(kind):
  noise = np.random.default_rng(0).integers(0, 255, (9, 8, 3)).astype(np.uint8)
  return lambda path: Image.fromarray(noise).save(path, kind)


def words(path):
  tokenizer.train(['what colour is it ?', 'it is red'], 20).save(str(path))


def table(path):
  with path.open('w') as file:
    result = csv.DictWriter(file, ROWS[0])
    result.writeheader()
    result.writerows(ROWS)


def read_tokenizer(path):
  result = tokenizer.cut(tokenizer.load(path), 8)
  tokenizer.encode(result, ['what is that ?'])
  tokenizer.vocabulary(result)


# kind -> (what writes a valid file, its name, what reads it)
KINDS = {
  **{
    f'pickle {n}': (lambda path, n=n: path.write_bytes(pickle.dumps(PLAIN, n)), 'a.pkl', READERS['pickle'])
    for n in (0, 2, 4, 5)
  },
  'torch zip': (tensors(zipped), 'a.pth', torch_file.read),
  'torch stream': (tensors(stream), 'a.pth', torch_file.read),
  'npz': (lambda path: np.savez(path, a=SAMPLE, b=SAMPLE.T), 'a.npz', numpy_file.read),
  'npz packed': (lambda path: np.savez_compressed(path, a=SAMPLE, b=SAMPLE.T), 'a.npz', numpy_file.read),
  'safetensors': (
    lambda path: safetensors_io.export(path, {'params': {'a': SAMPLE, 'b': SAMPLE[0]}}),
    'a.safetensors',
    safetensors_io.read,
  ),
  'png': (image('png'), 'a.png', READERS['image']),
  'jpeg': (image('jpeg'), 'a.jpg', READERS['image']),
  'tiff': (image('tiff'), 'a.tiff', READERS['image']),
  'gif': (image('gif'), 'a.gif', READERS['image']),
  'webp': (image('webp'), 'a.webp', READERS['image']),
  'sound': (
    lambda path: wavfile.write(path, 100, (SAMPLE.ravel() * 999).astype(np.int16)),
    'a.wav',
    READERS['sound'],
  ),
  'tokenizer': (words, 'tokenizer.json', read_tokenizer),
  'jsonl': (
    lambda path: path.write_text('\n'.join(map(json.dumps, ROWS))),
    'a.jsonl',
    lambda path: manifest.manifest(path=str(path)),
  ),
  'csv': (table, 'a.csv', lambda path: manifest.manifest(path=str(path))),
}


def fuzzed(tmp_path, kind, times):
  """How many of the mutations of a valid file are read and refused; anything else is a failure."""
  write, name, read = KINDS[kind]
  path, rng, ends = tmp_path / name, random.Random(kind), Counter()
  write(path)
  whole = path.read_bytes()
  read(path)
  for _ in range(times):
    bad, way = bytearray(whole), rng.randrange(5)
    for _ in range(rng.choice((1, 1, 2, 4))):
      at = rng.randrange(len(bad))
      if way < 3:
        bad[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
      elif way == 3:
        bad[at : at + rng.randrange(20)] = rng.randbytes(rng.randrange(20))
      else:
        del bad[max(at, 1) :]
    path.write_bytes(bad)
    began = time.monotonic()
    try:
      read(path)
      ends['read'] += 1
    except KdjaxError as e:
      assert '\n' not in str(e) and len(str(e)) < 2100
      ends['refused'] += 1
    assert time.monotonic() - began < 10
  return ends


@pytest.mark.parametrize('kind', KINDS)
def test_a_file_with_other_bytes_is_read_or_refused(tmp_path, kind):
  assert fuzzed(tmp_path, kind, 100)['refused']


def test_values_without_end_are_not_shown(tmp_path):
  """Tuples of the same tuple twice, 40 deep: whoever hashes, compares or shows one never ends."""
  double = b')q\x00' + b''.join(b'h' + bytes([i]) + b'\x86q' + bytes([i + 1]) for i in range(40))
  kind = called(name('numpy', 'dtype'), text('f8'))
  bodies = {
    'no type': called(name('numpy', 'dtype'), double),
    'another coding': called(name('_codecs', 'encode'), text('a'), double),
    'no text': double + b'h\x01\x93',
    'records': kind + double + b'b',
    'records ': kind + b'(' + double + b'h\x28h\x28h\x28h\x28tb',
    'a tuple as the key': b'}' + double + b'Ns',
    'no name': double + b')R',
    'without a type or a shape': called(name('numpy.core.numeric', '_frombuffer'), double, kind, double),
  }
  for message, body in bodies.items():
    (tmp_path / 'a.pkl').write_bytes(body + b'.')
    refused(numpy_pickle.read, tmp_path / 'a.pkl', message.strip())
  storage = text('storage'), name('torch', 'FloatStorage'), text('0'), text('cpu'), number(1)
  tensors = [tensor().replace(group(number(12)), double)]
  tensors += [group(*storage[:i], double, *storage[i + 1 :]) + b'Q' for i in range(5) if i != 3] + [
    double + b'Q'
  ]
  for body in tensors:
    for write in (zipped, stream):
      refused(torch_file.read, write(tmp_path / 'a.pth', state(a=body), {}), 'damaged')
  head = torch_file.MAGIC + pickle.dumps(1001, 2) + pickle.dumps(SYSTEM, 2)
  for body in (
    double + b'.' + b'}.',
    head[len(torch_file.MAGIC) :] + state(a=tensor()) + b'.]' + double + b'a.',
  ):
    (tmp_path / 'a.pth').write_bytes(torch_file.MAGIC + body)
    refused(torch_file.read, tmp_path / 'a.pth')


def test_numbers_and_calls_of_any_size_are_not_computed_with(tmp_path, monkeypatch):
  path, huge = tmp_path / 'a.pkl', b'\x8a\xff' + b'\xff' * 254 + b'\x7f'
  array, kind = name('numpy.core.numeric', '_frombuffer'), called(name('numpy', 'dtype'), text('f8'))
  path.write_bytes(called(array, b'C\x00', kind, group(huge * 200_000), text('C')) + b'.')
  refused(numpy_pickle.read, path, 'without a type or a shape')
  many = b'(' + b'N' * 100_000 + b't\x94'  # given to a call again and again
  path.write_bytes(b'(' + many + (name('builtins', 'bytes') + b'h\x00R') * 50_000 + b't.')
  refused(numpy_pickle.read, path, 'a call of what is no name')
  built = name('numpy', 'dtype') + text('f8') + b'\x85R' + b'\x94' * 50_000
  state_ = group(number(3), text('<'), b'NNN', number(-1), number(-1), number(0)) + b'r\xff\xff\x00\x00'
  path.write_bytes(b'(' + built + b'h\x00' * 50_000 + (state_ + b'b') + b't.')
  refused(numpy_pickle.read, path)
  key = b'X' + struct.pack('<I', 5000) + b'k' * 5000
  path.write_bytes(b'}' + key + b'Ns.')
  refused(numpy_pickle.read, path, 'a key of 5,000 characters')
  monkeypatch.setattr(restricted_unpickler, 'MOST', 1000)
  path.write_bytes(b'}' * 2000)
  refused(numpy_pickle.read, path, 'more than 1,000 operations')
  monkeypatch.undo()
  same = {f't{i}': tensor(size=300_000, shape=(300_000,)) for i in range(40)}
  body = zipped(tmp_path / 'a.pth', state(**same), {'0': np.zeros(300_000, np.float32)})
  refused(torch_file.read, body, 'many tensors of the same numbers')


def test_arrays_that_unpack_to_more_than_they_are(tmp_path):
  path = tmp_path / 'a.npz'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive, archive.open('x.npy', 'w') as file:
    np.lib.format.write_array_header_1_0(file, {'descr': '<f4', 'fortran_order': False, 'shape': (10**9,)})
    for _ in range(10):
      file.write(bytes(10_000_000))
  refused(numpy_file.read, path, '100 MB are packed in', 'save it with numpy.savez')
  np.savez(path, a=np.array([{}], object))
  refused(numpy_file.read, path, "'a.npy' is an array of objects")
  for shape, descr in (
    ((5,), '<f4'),
    ((-1,), '<f4'),
    ((2**62, 2**62), '<f4'),
    ((1,), [('a', 'O')]),
    ((1,), 'O'),
  ):
    with zipfile.ZipFile(path, 'w') as archive, archive.open('x.npy', 'w') as file:
      np.lib.format.write_array_header_1_0(file, {'descr': descr, 'fortran_order': False, 'shape': shape})
      file.write(bytes(16))
    refused(numpy_file.read, path)
  for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
    with zipfile.ZipFile(path, 'w', kind) as archive:
      archive.writestr('x.npy', bytes(1000))
    refused(numpy_file.read, path, 'in a way that NumPy does not write')


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_two_thousand_files_with_other_bytes(tmp_path, kind):
  print(kind, dict(fuzzed(tmp_path, kind, 2000)))


FEATURE = 'tensorflow_datasets.core.features.'
INFO = {
  'name': 'made',
  'version': '1.0.0',
  'fileFormat': 'array_record',
  'splits': [
    {
      'name': 'train',
      'numBytes': '100',
      'shardLengths': ['3'],
      'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    }
  ],
}
TEXT = {'pythonClassName': f'{FEATURE}text_feature.Text', 'text': {}}


def features(inner):
  return {
    'pythonClassName': f'{FEATURE}features_dict.FeaturesDict',
    'featuresDict': {'features': {'a': inner}},
  }


@pytest.fixture
def prepared_folder(tmp_path):
  """`prepared_folder(info, features)`: as TFDS prepares one."""

  def make(info=INFO, inner=TEXT):
    folder = tmp_path / 'made' / '1.0.0'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'dataset_info.json').write_text(info if isinstance(info, str) else json.dumps(info))
    (folder / 'features.json').write_text(json.dumps(features(inner)))
    (folder / 'made-train.array_record-00000-of-00001').write_bytes(bytes(100))
    return folder

  return make


def opened(folder):
  return tfds_source.open_builder(str(folder), None)


def test_a_prepared_folder_is_read(prepared_folder):
  assert opened(prepared_folder()).info.splits['train'].num_examples == 3
  assert opened(prepared_folder().parent).info.full_name == 'made/1.0.0'


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'version': '../..'}, "has the version '../..'"),
    ({'version': '1.0.0/../..'}, 'has the version'),
    ({'version': 3}, 'has the version'),
    ({'name': '../made'}, "has the name '../made'"),
    ({'name': None}, 'has the name'),
    ({'splits': [INFO['splits'][0] | {'name': '../train'}]}, 'has the split'),
    ({'splits': [INFO['splits'][0] | {'filepathTemplate': '../{DATASET}'}]}, 'outside its folder'),
    ({'splits': [INFO['splits'][0] | {'filepathTemplate': '/etc/{DATASET}'}]}, 'outside its folder'),
    ({'splits': [INFO['splits'][0] | {'shardLengths': ['99999999999']}]}, '99,999,999,999 examples are in'),
    ({'splits': [INFO['splits'][0] | {'shardLengths': ['-3']}]}, 'examples are in'),
    ({'splits': 7}, 'cannot open'),
    ({'fileFormat': 'exe'}, 'cannot open'),
  ],
)
def test_a_prepared_folder_says_nothing_that_leads_out_of_it(prepared_folder, change, said):
  refused(opened, prepared_folder(INFO | change), said)


@pytest.mark.parametrize('info', ['', '[]', 'null', '{', '[' * 100_000, '\ufeff{}'])
def test_a_description_that_is_none(prepared_folder, info):
  refused(opened, prepared_folder(info))


@pytest.mark.parametrize(
  'inner',
  [
    {'pythonClassName': 'antigravity.Feature', 'text': {}},
    {'python_class_name': 'antigravity.Feature', 'text': {}},
    {'pythonClassName': 'distutils.spawn.spawn', 'jsonFeature': {'json': '{}'}},
    {
      'pythonClassName': f'{FEATURE}features_dict.FeaturesDict',
      'jsonFeature': {'json': json.dumps({'b': {'type': 'antigravity.Feature', 'content': {}}})},
    },
    {'type': 'antigravity.Feature', 'content': {}},
  ],
)
def test_a_prepared_folder_imports_nothing(prepared_folder, inner):
  legacy = 'type' in inner  # which TFDS understands at other places alone
  refused(opened, prepared_folder(inner=inner), *(() if legacy else ['which is none of TFDS']))
  assert 'antigravity' not in sys.modules


def test_a_pipe_in_a_prepared_folder(prepared_folder):
  folder = prepared_folder()
  os.mkfifo(folder / 'made-test.array_record-00000-of-00001')
  refused(opened, folder, 'is a pipe')


@pytest.mark.parametrize(
  'name', ['../..', 'mnist:../..', 'mnist/../..', 'a\0b', 'x' * 300, 'mnist?x=1', '{0}']
)
def test_names_of_data_sets_that_lead_elsewhere(tmp_path, name):
  refused(lambda path: tfds_source.open_builder(name, str(path)), tmp_path)


def replaced(pattern, content, times=1):
  return {
    'normalizers': [{'type': 'Replace', 'pattern': pattern, 'content': content}] * times,
    'type': 'Sequence',
  }


SPECIAL = {'[UNK]': {'id': '[UNK]', 'ids': [0] * 10_000, 'tokens': ['[UNK]'] * 10_000}}


@pytest.mark.parametrize(
  'part',
  [
    {'normalizer': replaced({'String': 'a'}, 'aa', 40)},
    {'normalizer': replaced({'Regex': ''}, 'x' * 5000)},
    {'normalizer': replaced({'String': ''}, 'x' * 5000)},
    {'normalizer': {'type': 'Sequence', 'normalizers': [{'type': 'Prepend', 'prepend': 'a' * 10**6}] * 9}},
    {'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': [{'type': 'Whitespace'}] * 9999}},
    {'post_processor': {'type': 'TemplateProcessing', 'single': [], 'pair': [], 'special_tokens': SPECIAL}},
    {'normalizer': {'type': 'Precompiled', 'precompiled_charsmap': 'AAAA////'}},
    {'normalizer': {'type': 'Precompiled', 'precompiled_charsmap': 7}},
    {'model': {'type': 'BPE', 'vocab': {'a': 0}, 'merges': [['a', 'a']]}},
    {'model': {'type': 'Unigram', 'vocab': [], 'unk_id': 7}},
    {'model': {'type': 'WordLevel', 'vocab': {'a': -1}, 'unk_token': 'a'}},
    {'model': None},
  ],
)
def test_a_tokenizer_that_never_ends_or_is_none(tmp_path, part):
  words(tmp_path / 'tokenizer.json')
  whole = json.loads((tmp_path / 'tokenizer.json').read_text())
  (tmp_path / 'tokenizer.json').write_text(json.dumps(whole | part))
  refused(tokenizer.load, tmp_path / 'tokenizer.json', 'cannot read the tokenizer')


def test_a_tokenizer_that_is_nested_or_large(tmp_path):
  path = tmp_path / 'tokenizer.json'
  for open_, close in (('[', ']'), ('{"normalizer":', '}')):
    path.write_text(open_ * 100_000 + '7' + close * 100_000)
    refused(tokenizer.load, path)
  with path.open('wb') as file:
    file.truncate(100_000_000)
  refused(tokenizer.load, path, 'has 100,000,000 bytes')


def safetensors(path, header, data=b'', length=None):
  header = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(header) if length is None else length) + header + data)
  return path


def tensor_entry(shape=(2,), dtype='F32', offsets=(0, 8)):
  return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


@pytest.mark.parametrize(
  'header',
  [
    {'a': tensor_entry(offsets=(0, 99))},
    {'a': tensor_entry(offsets=(8, 0))},
    {'a': tensor_entry(offsets=(-8, 0))},
    {'a': tensor_entry(offsets=(4, 12))},
    {'a': tensor_entry(shape=(3,))},
    {'a': tensor_entry(shape=(2**40, 2**40))},
    {'a': tensor_entry(shape=(2**64,))},
    {'a': tensor_entry(shape=(-2,))},
    {'a': tensor_entry(dtype='F7')},
    {'a': tensor_entry(dtype='O')},
    {'a': tensor_entry(), 'b': tensor_entry()},  # of the same bytes
    {'a': tensor_entry(), 'b': tensor_entry(offsets=(4, 12))},
    {'a': tensor_entry(), '__metadata__': {'vocabulary': 7}},
    {'a': tensor_entry(), '__metadata__': []},
    {'a': [1, 2]},
    [],
    b'',
    b'{',
    b'[' * 100_000,
    b'{"a":' * 100_000,
    b'\xff\xfe',
  ],
)
def test_a_header_that_lies(tmp_path, header):
  refused(safetensors_io.read, safetensors(tmp_path / 'a.safetensors', header, bytes(8)))


@pytest.mark.parametrize('length', [0, 2, 2**20, 2**40, 2**63, 2**64 - 1])
def test_a_length_of_a_header_that_lies(tmp_path, length):
  refused(
    safetensors_io.read, safetensors(tmp_path / 'a.safetensors', {'a': tensor_entry()}, bytes(8), length)
  )


def test_a_name_twice_in_a_header_is_one_tensor(tmp_path):
  one = json.dumps(tensor_entry())
  path = safetensors(tmp_path / 'a.safetensors', f'{{"a": {one}, "a": {one}}}'.encode(), bytes(8))
  try:
    assert list(safetensors_io.read(path)[0]) == ['a']
  except KdjaxError as e:
    assert 'cannot read the model' in str(e)


def test_links_out_of_a_checkpoints_folder(tmp_path):
  folder = tmp_path / 'model'
  folder.mkdir()
  safetensors_io.export(tmp_path / 'elsewhere.safetensors', {'params': {'a': SAMPLE}})
  link = folder / 'model.safetensors'
  link.symlink_to('../elsewhere.safetensors')
  refused(find.files, str(folder), 'outside its folder')
  assert find.files(str(link)).weights == (link,)  # the path of the file itself
  link.unlink()
  (tmp_path / 'elsewhere.safetensors').rename(link)
  (folder / 'config.json').symlink_to('/etc/passwd')
  refused(find.files, str(folder), 'outside its folder')
  hub = tmp_path / 'models--a--b'  # as the hub keeps them
  (hub / 'blobs').mkdir(parents=True)
  (hub / 'snapshots' / 'abc').mkdir(parents=True)
  link.rename(hub / 'blobs' / '123')
  (hub / 'snapshots' / 'abc' / 'model.safetensors').symlink_to('../../blobs/123')
  assert find.files(str(hub / 'snapshots' / 'abc')).weights


@pytest.mark.parametrize(
  'shard', ['../a.safetensors', '/etc/passwd', '..', '', 7, None, ['a'], 'a\0b', 'x' * 300]
)
def test_an_index_that_leads_out_of_its_folder(tmp_path, shard):
  (tmp_path / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'a': shard}}))
  refused(find.files, str(tmp_path))


def test_arrays_that_a_file_describes():
  assert described([[2, 3], 'float32'], 'f') == ((2, 3), 'float32')
  for shape, dtype in (
    ([2], 'O'),
    ([2], 'S99999999'),
    ([2], 'f4,O'),
    ([2], ['float32']),
    ([10**12], 'int8'),
    ([2**20] * 8, 'int8'),
    ([1] * 40, 'int8'),
    ([-1], 'int8'),
    ([True], 'int8'),
    ([2.0], 'int8'),
    ('23', 'int8'),
    (None, 'int8'),
  ):
    refused(lambda given: described(given, 'stage.json'), [shape, dtype], 'stage.json describes an array')
  for value in (None, 7, [[2]], [[2], 'int8', 3], {}):
    refused(lambda given: described(given, 'stage.json'), value)
