"""Arrays in a .npz file or in memory, and data sets of other libraries, as kdjax takes them."""

import numpy as np
import pytest
from PIL import Image

from kdjax.errors import KdjaxError
from kdjax.experiment import load
from kdjax.input import encode
from kdjax.input.array_data import arrays_dataset

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (12, 5, 4, 3)).astype(np.uint8)
Y = np.arange(12) % 3


def split(n=12, **more):
  return {'image': X[:n], 'label': Y[:n], **more}


class Map:
  """A data set as torch has them: no base class is needed."""

  def __init__(self, rows):
    self.rows = rows

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, i):
    return self.rows[i]


PAIRS = [(X[i], int(Y[i])) for i in range(12)]


@pytest.mark.parametrize(
  'part',
  [
    split(),
    {'x': X, 'y': Y},
    {'img': list(X), 'labels': Y.tolist()},
    {'image': X, 'label': Y[:, None]},
    {'image': X, 'label': np.eye(3)[Y]},
    {'image': X, 'label': Y.astype(np.float32)},
    (X, Y),
    (X, list(Y)),
    (list(X), list(Y)),
    ({'image': X}, Y),
    [{'image': x, 'label': y} for x, y in PAIRS],
    PAIRS,
    Map(PAIRS),
    Map([{'image': Image.fromarray(x), 'target': y} for x, y in PAIRS]),
  ],
)
def test_what_a_split_may_be(part):
  data = arrays_dataset(part, part)
  assert data.classes == ('0', '1', '2')
  example = data.splits['train'][4]
  assert (example['image'] == X[4]).all() and example['label'] == 1 and len(data.splits['test']) == 12
  batch = encode.make_encode(classes=3)([data.splits['train'][i] for i in range(12)])
  assert (batch['image'] == X).all() and batch['label'].tolist() == Y.tolist()


def test_what_was_taken_for_what_is_said(capsys):
  arrays_dataset({'x': X, 'y': Y, 'fold': Y}, (X, Y))
  assert "label: 'y', int64 []; image: 'x', uint8 [5, 4, 3]; left out: fold." in capsys.readouterr().out
  texts = arrays_dataset((['a b', 'c'], ['yes', 'no']), (['d'], ['yes']))
  assert texts.classes == ('no', 'yes') and texts.splits['test'][0] == {'text': 'd', 'label': 1}
  grey = arrays_dataset((X[..., 0] / 255.0, Y), (X[..., 0] / 255.0, Y))
  assert grey.splits['train'][0]['image'].shape == (5, 4, 1)
  audio = np.full((12, 9), 2**14, np.int16)
  every = split(text=[f't{i}' for i in range(12)], audio=audio, video=np.zeros((12, 2, 4, 4, 3), np.uint8))
  example = arrays_dataset(every, every).splits['train'][1]
  assert example.keys() == {'image', 'label', 'text', 'audio', 'video'} and (example['audio'] == 0.5).all()


@pytest.mark.parametrize(
  ('part', 'words'),
  [
    (
      (RNG.normal(size=(12, 100)), Y),
      r"'x' is float64 \[100\] an example, which may be several things: name it",
    ),
    ((RNG.normal(size=(12, 5)), Y), r"'x' is float64 \[5\] an example.*\{'image': x, 'label': y\}"),
    ({'image': X, 'label': Y[:3]}, "different lengths, or none: 'image' 12, 'label' 3"),
    ({'image': X, 'img': X, 'label': Y}, "has 'image' and 'img', either of which may be the image"),
    ({'label': Y}, r"has 'label' \(int64 \[\]\), and no image, text, audio or video"),
    ({}, 'there are none'),
    ([], 'train is empty'),
    (iter(PAIRS), 'is a list_iterator, which has no examples by number.*list'),
    (X, 'an example is a ndarray; it has to be a dict'),
    ('x.npz', 'is a str, which has no examples by number'),
    (split(label=Y / 2), 'labels are numbers such as 0.5?.*regression'),
    (
      split(label=RNG.integers(0, 2, (12, 3)) | 1),
      r'a label is int64 \[3\]; for several classes.*multilabel',
    ),
    (split(label=Y - 5), 'a label is -5'),
    (None, 'there are no training examples'),
  ],
)
def test_what_a_split_may_not_be(part, words):
  with pytest.raises(KdjaxError, match=words) as caught:
    arrays_dataset(part, split())
  assert '\n' not in str(caught.value)


def test_labels_that_training_lacks(capsys):
  with pytest.raises(KdjaxError, match="the label 'cow' is none of the training labels"):
    arrays_dataset((['a', 'b'], ['cat', 'dog']), (['c'], ['cow'])).splits['test'][0]
  data = arrays_dataset((['a', 'b'], ['cat', 'dog']), (['c'], ['cow']), classes=('cow', 'cat', 'dog'))
  assert data.splits['test'][0]['label'] == 0
  assert arrays_dataset((X[:2], [0, 2]), split()).classes == ('0', '1', '2')
  assert 'no training example has the class 1' in capsys.readouterr().out
  assert arrays_dataset(split(label=np.where(Y == 1, -1, Y)), split()).splits['train'][1]['label'] == -1
  with pytest.raises(KdjaxError, match="an example has image, lable, and no 'label'"):
    arrays_dataset([{'image': x, 'label': 1} for x in X[:2]] + [{'image': X[0], 'lable': 1}], split())


def test_numbers_and_several_labels():
  data = arrays_dataset((X, Y / 2), (X, Y), label='number')
  assert data.classes == () and data.splits['train'][1]['label'] == np.float32(0.5)
  several = arrays_dataset((X, np.eye(3)[Y]), (X, np.eye(3)[Y]), label='classes', classes=('a', 'b', 'c'))
  assert several.splits['train'][1]['label'].tolist() == [0, 1, 0]
  with pytest.raises(KdjaxError, match=r'a label is int64 \[\]; the task reads 0, 1 or -1'):
    arrays_dataset((X, Y), (X, Y), label='classes')


def test_a_fingerprint_is_of_the_content():
  one = arrays_dataset(split(), split())
  assert one.fingerprint == arrays_dataset(split(), split()).fingerprint and one.content
  other = X.copy()
  other[3, 0, 0, 0] ^= 1
  assert one.fingerprint != arrays_dataset(split(image=other), split()).fingerprint
  assert one.fingerprint != arrays_dataset(split(label=Y[::-1]), split()).fingerprint


def test_splits_are_drawn_where_there_are_none(capsys):
  data = arrays_dataset({'image': np.repeat(X, 4, 0), 'label': np.repeat(Y, 4)})
  assert {s: len(x) for s, x in data.splits.items()} == {'train': 36, 'validation': 6, 'test': 6}
  assert {e['label'] for e in data.splits['test']} == {0, 1, 2}
  assert 'splits drawn: train 36, validation 6, test 6' in capsys.readouterr().out
  assert arrays_dataset(split(), None, split(3)).splits.keys() == {'train', 'test'}
  with pytest.raises(KdjaxError, match='2 examples: too few'):
    arrays_dataset((X[:2], Y[:2]))


@pytest.mark.parametrize(
  'names',
  [
    'train/image train/label test/image test/label',
    'train_images train_labels test_images test_labels',
    'x_train y_train x_test y_test',
    'image label',
  ],
)
def test_npz(tmp_path, names, capsys):
  arrays = {n: (Y if 'label' in n or n.startswith('y') else X).repeat(3, 0) for n in names.split()}
  np.savez_compressed(tmp_path / 'a.npz', **arrays, rate=8000)
  data = load.dataset({'name': '', 'path': str(tmp_path / 'a.npz')})
  assert data.classes == ('0', '1', '2') and data.splits['test'][0]['image'].shape == (5, 4, 3)
  assert data.rate == 8000 and data.files[0].name == 'a.npz' and 'a.npz: ' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('arrays', 'words'),
  [
    ({}, 'has no arrays'),
    ({'train/image': X, 'label': Y}, 'has label beside arrays of splits'),
    ({'x_train': X, 'train/x': X}, "two arrays for 'x' of train"),
    ({'image': np.array(3), 'label': Y}, "'image' is one number"),
    ({'image': X, 'label': np.array([{}] * 12, object)}, 'an array of objects, which are pickles'),
    ({'test/image': X, 'test/label': Y}, 'there are no training examples'),
  ],
)
def test_npz_that_cannot_be_read(tmp_path, arrays, words):
  np.savez(tmp_path / 'a.npz', **arrays)
  with pytest.raises(KdjaxError, match=words) as caught:
    load.dataset({'name': '', 'path': str(tmp_path / 'a.npz')})
  assert '\n' not in str(caught.value)


def test_files_that_are_no_npz(tmp_path):
  (tmp_path / 'a.npz').write_bytes(b'PK nothing')
  with pytest.raises(KdjaxError, match='cannot read the file of arrays .*a.npz'):
    load.dataset({'name': '', 'path': str(tmp_path / 'a.npz')})
  with pytest.raises(KdjaxError, match='which arrays'):
    load.dataset({'name': 'arrays', 'path': ''})


def test_columns_are_named(tmp_path):
  np.savez(tmp_path / 'a.npz', wave=np.zeros((12, 100), 'f4'), kind=Y)
  config = {'name': '', 'path': str(tmp_path / 'a.npz'), 'columns': {'audio': 'wave', 'label': 'kind'}}
  assert load.dataset(config).splits['train'][0]['audio'].shape == (100,)
  with pytest.raises(KdjaxError, match="and no 'waves', which data.columns.audio names"):
    load.dataset(config | {'columns': {'audio': 'waves'}})


def test_grain_and_sounds_of_any_length(capsys):
  import grain

  source = grain.MapDataset.source(PAIRS).seed(0)
  assert arrays_dataset(source, source).splits['train'][3]['label'] == 0
  sounds = [{'audio': np.full(n, 0.5, 'f4'), 'label': n % 2} for n in (3, 5, 4)]
  data = arrays_dataset(sounds, sounds)
  assert data.splits['train'][0]['audio'].tolist() == [0.5] * 3 + [0, 0]
  assert 'sounds: 5 samples each' in capsys.readouterr().out
