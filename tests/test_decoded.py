"""Splits kept on disk: taken where nothing has changed, read anew where anything has."""

import os

import numpy as np
import pytest

from kdjax.input import decoded_cache, splits
from kdjax.input import encode as encode_
from kdjax.types import DataSet

ARRAYS = {'image': np.arange(24, dtype=np.uint8).reshape(2, 3, 4), 'text/mask': np.ones((2, 5), bool)}


@pytest.fixture
def file(tmp_path):
  result = tmp_path / 'data'
  result.write_text('one')
  return result


def test_what_is_kept_comes_back(tmp_path, file):
  folder = decoded_cache.cache_path(str(tmp_path / 'cache'), [file], 'config') / 'train'
  assert decoded_cache.load(folder) is None
  decoded_cache.save(folder, ARRAYS, {'text': 3})
  arrays, cut = decoded_cache.load(folder)
  assert cut == {'text': 3} and arrays.keys() == ARRAYS.keys()
  for key, value in arrays.items():
    assert type(value) is np.ndarray and value.dtype == ARRAYS[key].dtype
    np.testing.assert_array_equal(value, ARRAYS[key])


def test_a_change_is_another_place(tmp_path, file, monkeypatch):
  cache = str(tmp_path / 'cache')
  places = {decoded_cache.cache_path(cache, [file], 'config')}
  places.add(decoded_cache.cache_path(cache, [file], 'another config'))
  os.utime(file, (1, 1))
  places.add(decoded_cache.cache_path(cache, [file], 'config'))
  file.write_text('longer')
  os.utime(file, (1, 1))
  places.add(decoded_cache.cache_path(cache, [file], 'config'))
  monkeypatch.setattr(decoded_cache, '_code', lambda: 'another kdjax')
  places.add(decoded_cache.cache_path(cache, [file], 'config'))
  assert len(places) == 5
  assert decoded_cache.cache_path('', [file]) is decoded_cache.cache_path(cache, []) is None
  assert decoded_cache.cache_path(cache, [tmp_path / 'gone']) is None


def test_what_was_not_asked_for_longest_makes_room(tmp_path, file, monkeypatch):
  monkeypatch.setattr(decoded_cache, 'LARGEST', 2500)
  folders = [decoded_cache.cache_path(str(tmp_path / 'cache'), [file], i) / 'train' for i in range(3)]
  for i, folder in enumerate(folders[:2]):
    decoded_cache.save(folder, {'x': np.zeros(1000, np.uint8)}, {})
    os.utime(folder, (i, i))
  assert decoded_cache.load(folders[0])
  decoded_cache.save(folders[2], {'x': np.zeros(1000, np.uint8)}, {})
  assert [decoded_cache.load(f) is not None for f in folders] == [True, False, True]


def test_a_large_or_broken_one_is_read_again(tmp_path, file, monkeypatch):
  folder = decoded_cache.cache_path(str(tmp_path / 'cache'), [file]) / 'train'
  decoded_cache.save(folder, ARRAYS, {})
  (folder / '0.npy').write_bytes(b'cut off')
  assert decoded_cache.load(folder) is None
  monkeypatch.setattr(decoded_cache, 'LARGEST', 10)
  other = decoded_cache.cache_path(str(tmp_path / 'cache'), [file], 'large') / 'train'
  decoded_cache.save(other, ARRAYS, {})
  assert not other.exists()


def test_a_slow_split_is_decoded_once(tmp_path, file, monkeypatch):
  monkeypatch.setattr(decoded_cache, 'SLOW', 0.0)
  requests = []

  class Source:
    def __len__(self):
      return 5

    def __getitem__(self, i):
      requests.append(i)
      return {'id': int(i), 'image': np.full((2, 2, 3), i, np.uint8)}

  dataset = DataSet({'train': Source(), 'test': Source()}, (), 'made up', files=(file,))
  kept = decoded_cache.cache_path(str(tmp_path / 'cache'), dataset.files)
  encode = encode_.make_encode()
  first = splits.read(dataset, 'train', encode, kept=kept)
  many = len(requests)
  second = splits.read(dataset, 'train', encode, kept=kept)
  assert len(requests) == many + 1  # the first example says how large the split is
  for key, value in first.arrays.items():
    np.testing.assert_array_equal(second.arrays[key], value)
    np.testing.assert_array_equal(second.take(np.array([3, 1]))[key], value[[3, 1]])
  splits.read(dataset, 'test', encode, kept=kept)
  assert len(requests) == many + 1 + 6


def test_what_a_kill_left_is_cleared(tmp_path, file):
  folder = decoded_cache.cache_path(str(tmp_path / 'cache'), [file]) / 'train'
  folder.mkdir(parents=True)
  (folder / '0.npy').write_bytes(b'half deleted')
  left, new = (folder.parents[1] / name for name in ('begun-old', 'begun-new'))
  for one in (left, new):
    one.mkdir()
  os.utime(left, (1, 1))
  decoded_cache.save(folder, ARRAYS, {})
  assert decoded_cache.load(folder) and not left.exists() and new.exists()
