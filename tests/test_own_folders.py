"""A folder of class folders, as people have them: images or sounds, with splits or without."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from kdjax.datasets.folder import folder
from kdjax.errors import KdjaxError
from kdjax.experiment import load
from kdjax.input import draw, path_kind

COLOURS = {'red': (220, 30, 30), 'blue': (30, 30, 220)}


def picture(path, value=0, colour=(0, 0, 0), size=(6, 5)):
  path.parent.mkdir(parents=True, exist_ok=True)
  array = np.full((*size, 3), colour, np.uint8)
  array[0, 0] = value % 256
  Image.fromarray(array).save(path)
  return path


def sound(path, rate=8000, seconds=0.01, value=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  wavfile.write(path, rate, np.full(round(rate * seconds), 100 + value, np.int16))
  return path


@pytest.fixture
def photos(tmp_path):
  """20 pictures each of two colours."""
  for colour, rgb in COLOURS.items():
    for i in range(20):
      picture(tmp_path / 'photos' / colour / f'{i}.png', i, rgb)
  return tmp_path / 'photos'


def read(path, **options):
  return load.dataset({'name': '', 'path': str(path), 'options': options})


def sizes(dataset):
  return {k: len(v) for k, v in dataset.splits.items()}


def test_class_folders_without_splits(photos, capsys):
  (photos / '.DS_Store').write_bytes(b'x')
  (photos / '__MACOSX' / 'red').mkdir(parents=True)
  (photos / 'red' / '._0.png').write_bytes(b'x')
  (photos / 'red' / 'Thumbs.db').write_bytes(b'x')
  (photos / 'red' / 'notes.txt').write_text('x')
  (photos / 'labels.csv').write_text('x')
  picture(photos / 'red' / 'nested' / 'deeper' / 'one.png', 77, COLOURS['red'])
  data = read(photos)
  assert path_kind.of(str(photos)) == 'folder'
  assert data.classes == ('blue', 'red') and sizes(data) == {'train': 33, 'validation': 4, 'test': 4}
  for split in data.splits.values():
    assert {int(e['label']) for e in split} == {0, 1}
    assert all(e['image'].shape == (6, 5, 3) for e in split)
    assert all(data.classes[e['label']] == ('red' if e['image'][1, 1, 0] > 99 else 'blue') for e in split)
  ids = [e['id'] for split in data.splits.values() for e in split]
  assert sorted(ids) == list(range(41))
  out = capsys.readouterr().out
  assert 'photos: 41 images of 2 classes: train 33, validation 4, test 4 (drawn).' in out
  assert 'left out, as no image: 1 .txt, 1 .csv beside the class folders' in out
  assert read(photos).fingerprint == data.fingerprint


def test_copies_of_a_file_are_in_one_split(photos):
  for i in range(20):
    picture(photos / 'red' / f'copy_of_{i}.png', i, COLOURS['red'])
  marks = {s: {e['image'].tobytes() for e in split} for s, split in folder(path=str(photos)).splits.items()}
  assert not marks['train'] & marks['test'] and not marks['train'] & marks['validation']


def test_split_folders(tmp_path, capsys):
  for split, n in (('Train', 6), ('val', 2), ('test', 3)):
    for colour, rgb in COLOURS.items():
      for i in range(n):
        picture(tmp_path / split / colour / f'{i}.png', i, rgb)
  assert sizes(read(tmp_path)) == {'train': 12, 'validation': 4, 'test': 6}
  (tmp_path / 'val').rename(tmp_path / 'dev')
  assert sizes(read(tmp_path)) == {'train': 12, 'validation': 4, 'test': 6}
  os.rename(tmp_path / 'test', tmp_path / '.hidden')
  assert sizes(read(tmp_path)) == {'train': 10, 'validation': 2, 'test': 4}
  assert '(drawn)' in capsys.readouterr().out
  os.rename(tmp_path / 'dev', tmp_path / '.dev')
  assert sizes(read(tmp_path)) == {'train': 8, 'validation': 2, 'test': 2}


def test_names_of_classes(tmp_path, capsys):
  for name in ('10', '9', 'None'):
    for i in range(3):
      picture(tmp_path / name / f'{i}.png', i)
  assert read(tmp_path).classes == ('10', '9', 'None')  # a folder called None is a class
  (tmp_path / 'None').rename(tmp_path / '8')
  assert read(tmp_path).classes == ('8', '9', '10')
  (tmp_path / '8').rename(tmp_path / 'Cat')
  (tmp_path / '9').rename(tmp_path / 'cat')
  assert read(tmp_path).classes == ('10', 'Cat', 'cat')
  assert "differ by case or spaces alone, and are kept apart: 'Cat' and 'cat'" in capsys.readouterr().out


def test_sounds(tmp_path, capsys):
  for name, rate in (('yes', 8000), ('no', 16000)):
    for i in range(6 if name == 'yes' else 4):
      sound(tmp_path / name / f'{i}.wav', rate, 0.01 + 0.01 * (i == 0), i)
  data = read(tmp_path)
  assert data.rate == 8000 and data.splits['train'][0]['audio'].shape == (160,)
  assert data.splits['train'][0]['audio'].dtype == np.float32
  assert 'sounds: 8,000 samples a second, 0.02 s each (the longest)' in capsys.readouterr().out
  other = read(tmp_path, rate=16000, seconds=0.1)
  assert other.rate == 16000 and other.splits['test'][0]['audio'].shape == (1600,)
  assert other.fingerprint != data.fingerprint


def made(tmp_path, what):
  """A folder with something wrong."""
  root = tmp_path / 'r'
  if what != 'single':
    for i in range(4):
      picture(root / 'a' / f'{i}.png', i)
  for i in range(4):
    picture(root / 'b' / f'{i}.png', i + 9)
  if what == 'mixed':
    sound(root / 'b' / 'x.wav')
  elif what == 'fifo':
    os.mkfifo(root / 'b' / 'x.png')
  elif what == 'link':
    outside = picture(tmp_path / 'secret.png')
    (root / 'b' / 'x.png').symlink_to(outside)
  elif what == 'link to a folder':
    (root / 'c').symlink_to(root / 'a')
  elif what == 'broken link':
    (root / 'b' / 'x.png').symlink_to(root / 'nothing.png')
  elif what == 'both':
    picture(root / 'train' / 'a' / '1.png')
  elif what == 'only in test':
    for split in ('train', 'test'):
      for name in ('a', 'b', *(['zebra'] if split == 'test' else [])):
        picture(tmp_path / 's' / split / name / '1.png', 1)
    return tmp_path / 's'
  elif what == 'case':
    for name in ('train/Cat', 'train/dog', 'test/cat', 'test/dog'):
      picture(tmp_path / 's' / name / '1.png', 1)
    return tmp_path / 's'
  elif what == 'no classes':
    for path in root.glob('*/*'):
      path.rename(root / f'{path.parent.name}{path.name}')
    for name in ('a', 'b'):
      (root / name).rmdir()
  elif what == 'm4a':
    for path in root.glob('*/*'):
      path.rename(path.with_suffix('.m4a'))
  elif what == 'two validations':
    for name in ('train', 'val', 'dev'):
      picture(tmp_path / 's' / name / 'a' / '1.png', 1)
    return tmp_path / 's'
  elif what == 'few':
    picture(tmp_path / 's' / 'a' / '1.png', 1)
    picture(tmp_path / 's' / 'b' / '1.png', 2)
    return tmp_path / 's'
  return root


@pytest.mark.parametrize(
  ('what', 'words'),
  [
    ('mixed', r'has images \(\d.png\) and sounds \(x.wav\)'),
    ('fifo', 'x.png is a pipe'),
    ('link', 'x.png is a link out of'),
    ('link to a folder', 'is a link to a folder'),
    ('broken link', 'x.png cannot be read'),
    ('both', "has the splits train and beside them 'a'"),
    ('single', "has one class folder, 'b'"),
    ('only in test', "test/zebra: unknown class: 'zebra'.*data.options.classes"),
    ('case', "unknown class: 'cat'; did you mean 'Cat'"),
    ('no classes', '8 files and no class folders'),
    ('m4a', r'sounds of .m4a; ffmpeg -i FILE FILE.flac'),
    ('two validations', "has the splits 'dev' and 'val', both for validation"),
    ('few', 'too few to draw a test split'),
  ],
)
def test_what_is_wrong_with_a_folder_is_one_line(tmp_path, what, words):
  with pytest.raises(KdjaxError, match=words) as caught:
    read(made(tmp_path, what))
  assert '\n' not in str(caught.value)


def test_paths_that_are_no_folder(tmp_path):
  (tmp_path / 'empty').mkdir()
  with pytest.raises(KdjaxError, match='empty has nothing; it needs class folders.*CLASS/FILE'):
    read(tmp_path / 'empty')
  with pytest.raises(KdjaxError, match='is a file, and no folder of class folders'):
    folder(path=str(picture(tmp_path / 'x.png')))
  with pytest.raises(KdjaxError, match='x.png is nothing that kdjax knows.*data.name=NAME'):
    read(tmp_path / 'x.png')
  with pytest.raises(KdjaxError, match='there is no file or folder .*nowhere'):
    read(tmp_path / 'nowhere')
  with pytest.raises(KdjaxError, match='which folder'):
    folder()


def test_files_that_cannot_be_read(photos, tmp_path):
  (photos / 'red' / '0.png').write_bytes(b'no image')
  with pytest.raises(KdjaxError, match=r"class 'red': .*red/0.png is not a readable image"):
    [e for split in read(photos).splits.values() for e in split]
  with pytest.raises(KdjaxError, match='rate or seconds of sounds, and .* has images'):
    read(photos, rate=8000)
  for name in ('a', 'b'):
    for i in range(4):
      sound(tmp_path / 's' / name / f'{i}.wav', value=i)
  (tmp_path / 's' / 'a' / '1.wav').write_bytes(b'RIFFnonsense')
  with warnings.catch_warnings(), pytest.raises(KdjaxError, match='1.wav is not a readable sound'):
    [e for split in read(tmp_path / 's').splits.values() for e in split]


def test_classes_that_are_named(photos):
  assert read(photos, classes=('red', 'blue')).classes == ('red', 'blue')
  with pytest.raises(KdjaxError, match="unknown class: 'blue'"):
    read(photos, classes=('red', 'green'))


def test_drawn_splits_have_every_class_and_are_always_the_same():
  marks, labels = [f'{i:03}' for i in range(40)], [i % 4 for i in range(40)]
  drawn = draw.within_classes(marks, labels)
  assert drawn == draw.within_classes(marks, labels)
  for label in range(4):
    assert {s for s, x in zip(drawn, labels, strict=True) if x == label} == {'train', 'validation', 'test'}
  assert draw.within_classes(['a', 'b'], [0, 0]) == ['train', 'train']
