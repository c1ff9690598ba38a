"""Data sets of Hugging Face's library, where it is installed; nothing is downloaded without a word."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from kdjax.datasets.hf import hf
from kdjax.errors import KdjaxError
from kdjax.experiment import load
from kdjax.input import path_kind


def test_without_the_library_it_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, 'datasets', None)
  with pytest.raises(KdjaxError, match='needs the package datasets .*: pip install datasets'):
    hf(path='org/name')
  with pytest.raises(KdjaxError, match='which data set'):
    hf()


@pytest.fixture
def library(tmp_path, monkeypatch):
  monkeypatch.setenv('HF_HOME', str(tmp_path / 'home'))
  return pytest.importorskip('datasets')


def features(library, **more):
  return library.Features(
    {
      'photo': library.Image(),
      'kind': library.ClassLabel(names=['cat', 'dog']),
      'said': library.Value('string'),
      'age': library.Value('float32'),
      **more,
    }
  )


def made(library, n=6):
  images = [Image.fromarray(np.full((4, 5, 3), 10 * i % 250, np.uint8)) for i in range(n)]
  columns = {'photo': images, 'kind': [i % 2 for i in range(n)], 'said': list(map(str, range(n)))}
  return library.Dataset.from_dict(columns | {'age': [i / 2 for i in range(n)]}, features(library))


def test_a_saved_folder(library, tmp_path, capsys):
  parts = {
    'train': made(library, 8),
    'valid': made(library, 2),
    'test': made(library, 4),
    'other': made(library, 1),
  }
  library.DatasetDict(parts).save_to_disk(str(tmp_path / 'saved'))
  assert path_kind.of(str(tmp_path / 'saved')) == 'hf'
  data = load.dataset({'name': '', 'path': str(tmp_path / 'saved')})
  assert data.classes == ('cat', 'dog')
  assert {s: len(x) for s, x in data.splits.items()} == {'train': 8, 'validation': 2, 'test': 4}
  example = data.splits['train'][3]
  assert example.keys() == {'image', 'label', 'text'} and example['label'] == 1 and example['text'] == '3'
  assert (example['image'] == 30).all() and example['image'].shape == (4, 5, 3)
  out = capsys.readouterr().out
  assert (
    "image: 'photo', uint8 [4, 5, 3]" in out and 'left out: age' in out and 'splits left out: other' in out
  )
  numbers = load.dataset(
    {'name': '', 'path': str(tmp_path / 'saved'), 'columns': {'label': 'age'}}, None, 'number'
  )
  assert numbers.splits['train'][3]['label'] == 1.5 and numbers.classes == ()


def test_one_split_is_divided(library, tmp_path):
  made(library, 30).save_to_disk(str(tmp_path / 'saved'))
  data = load.dataset({'name': '', 'path': str(tmp_path / 'saved')})
  assert {s: len(x) for s, x in data.splits.items()} == {'train': 22, 'validation': 4, 'test': 4}


def test_sounds_and_several_labels(library, tmp_path):
  def wav(n):
    file = io.BytesIO()
    wavfile.write(file, 8000, np.full(n, 2**14, np.int16))
    return {'bytes': file.getvalue(), 'path': None}

  several = library.Sequence(library.ClassLabel(names=['a', 'b', 'c']))
  sounds = library.Dataset.from_dict({'sound': [wav(40), wav(20)], 'tags': [[0, 2], []]})
  sounds = sounds.cast_column('sound', library.Audio(sampling_rate=8000)).cast_column('tags', several)
  parts = library.DatasetDict({'train': sounds, 'test': sounds})
  parts.save_to_disk(str(tmp_path / 'saved'))
  data = load.dataset({'name': '', 'path': str(tmp_path / 'saved')}, None, 'classes')
  assert data.classes == ('a', 'b', 'c') and data.rate == 8000
  one, two = data.splits['train']
  assert one['label'].tolist() == [1, 0, 1] and two['label'].tolist() == [0, 0, 0]
  assert two['audio'].tolist() == [0.5] * 20 + [0] * 20


def test_nothing_is_downloaded_unless_asked_for(library, monkeypatch):
  import socket

  def refused(*args, **kwargs):
    raise AssertionError('a connection')

  monkeypatch.setattr(socket.socket, 'connect', refused)
  with pytest.raises(KdjaxError, match='nothing is downloaded unless you say so.*download=True') as caught:
    hf(path='kdjax/nothing-of-that-name')
  assert '\n' not in str(caught.value)
  with pytest.raises(KdjaxError, match="cannot load 'kdjax/nothing-of-that-name' from the hub") as caught:
    hf(path='kdjax/nothing-of-that-name', download=True)
  assert '\n' not in str(caught.value)


def test_folders_that_are_none(library, tmp_path):
  with pytest.raises(KdjaxError, match='there is no folder'):
    hf(path=str(tmp_path / 'nothing'))
  (tmp_path / 'x').mkdir()
  (tmp_path / 'x' / 'dataset_dict.json').write_text('{')
  with pytest.raises(KdjaxError, match='is no folder of save_to_disk') as caught:
    hf(path=str(tmp_path / 'x'))
  assert '\n' not in str(caught.value)
  library.DatasetDict({'unsupervised': made(library)}).save_to_disk(str(tmp_path / 'y'))
  with pytest.raises(KdjaxError, match='has the splits unsupervised, and none is called train'):
    hf(path=str(tmp_path / 'y'))
