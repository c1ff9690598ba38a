"""A table of every modality: sounds, videos, Parquet, what is missing, several texts of a row, numbers."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import wavfile

from kdjax.datasets.manifest import manifest
from kdjax.errors import KdjaxError
from kdjax.experiment import load
from kdjax.input import encode

SPLITS = ('train', 'train', 'validation', 'test')


@pytest.fixture
def files(tmp_path):
  """A picture, a sound, and a video in three forms."""
  Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(tmp_path / 'p.png')
  wavfile.write(tmp_path / 's.wav', 8000, np.full(80, 1000, np.int16))
  frames = np.stack([np.full((4, 6, 3), 40 * i, np.uint8) for i in range(5)])
  np.save(tmp_path / 'v.npy', frames)
  np.savez_compressed(tmp_path / 'v.npz', frames)
  images = [Image.fromarray(f) for f in frames]
  images[0].save(tmp_path / 'v.gif', save_all=True, append_images=images[1:])
  for i, image in enumerate(images):
    image.save(tmp_path / f'f{i}.png')
  return tmp_path


def write(folder, rows, name='rows.jsonl'):
  path = folder / name
  path.write_text('\n'.join(map(json.dumps, rows)))
  return path


def table(folder, name='rows.jsonl', **columns):
  """Four rows; a column is the cells of all, or the one that all have."""
  rows = [
    {k: v[i] if isinstance(v, tuple) else v for k, v in columns.items()} | {'split': split}
    for i, split in enumerate(SPLITS)
  ]
  return write(folder, rows, name)


LABELS = ('a', 'b', 'a', 'b')


def test_all_modalities_together(files, capsys):
  path = table(files, image='p.png', text='hello', audio='s.wav', video='v.npy', label=LABELS)
  data = manifest(path=str(path))
  one = data.splits['train'][0]
  assert one['image'].shape == (4, 6, 3) and one['text'] == 'hello' and one['video'].shape == (5, 4, 6, 3)
  assert one['audio'].shape == (80,) and data.rate == 8000 and not any('present' in k for k in one)
  assert {f.name for f in data.files} == {'rows.jsonl', 'p.png', 's.wav', 'v.npy'}
  assert 'sounds: 8,000 samples a second, 0.01 s each' in capsys.readouterr().out


@pytest.mark.parametrize('video', ['v.npy', 'v.npz', 'v.gif', [f'f{i}.png' for i in range(5)]])
def test_videos(files, video):
  one = manifest(path=str(table(files, video=video, label=LABELS)))
  assert [int(f.mean()) for f in one.splits['test'][0]['video']] == pytest.approx(
    [0, 40, 80, 120, 160], abs=2
  )
  few = manifest(path=str(table(files, video=video, label=LABELS)), frames=3)
  assert [int(f.mean()) for f in few.splits['test'][0]['video']] == pytest.approx([0, 80, 160], abs=2)
  assert one.fingerprint != few.fingerprint


@pytest.mark.parametrize(
  ('video', 'words'),
  [
    ('nothing.npy', 'cannot read the array'),
    ('nothing.gif', 'cannot read the video'),
    ('bad.npy', r'float64 \[3\]; a video is uint8'),
    ('objects.npy', 'an array of objects, which are pickles'),
    (['f0.png', 'large.png'], "the frames of 'video' are of different sizes"),
    ([], 'a video has 1 to 4,096 frames'),
  ],
)
def test_videos_that_are_none(files, video, words):
  np.save(files / 'bad.npy', np.zeros(3))
  np.save(files / 'objects.npy', np.array([{}], object), allow_pickle=True)
  Image.new('RGB', (9, 9)).save(files / 'large.png')
  data = manifest(path=str(table(files, video=video, label=LABELS)))
  with pytest.raises(KdjaxError, match=words) as caught:
    data.splits['train'][0]
  assert 'line 1' in str(caught.value)


def test_what_is_missing_is_marked(files, capsys):
  columns = {
    'image': ('p.png', None, 'p.png', ''),
    'text': ('hello there', 'you', '', 'who'),
    'audio': ('s.wav', 's.wav', 's.wav', None),
    'video': 'v.npy',
  }
  data = manifest(path=str(table(files, **columns, label=LABELS)))
  first, second = data.splits['train']
  assert {k: float(first[k]) for k in first if k.endswith('/present')} == {
    'image/present': 1,
    'text/present': 1,
    'audio/present': 1,
  }
  assert float(second['image/present']) == 0 and (second['image'] == 128).all()
  assert float(data.splits['validation'][0]['text/present']) == 0
  assert data.splits['validation'][0]['text'] == ''
  assert float(data.splits['test'][0]['audio/present']) == 0 and not data.splits['test'][0]['audio'].any()
  assert "of 4 examples 2 have no 'image', 1 have no 'text', 1 have no 'audio'" in capsys.readouterr().out
  batch = encode.make_encode(load.make_tokenizer({'tokenizer': '', 'vocab_examples': 9, 'vocab_size': 9,
    'text_length': 4}, data, files / 'w'), classes=2)([first, second])  # fmt: skip
  assert batch['image/present'].tolist() == [1, 0] and batch['image/present'].dtype == np.float32
  with pytest.raises(KdjaxError, match=r"line 2: 'image', 'text' are all empty"):
    manifest(
      path=str(table(files, image=('p.png', '', 'p.png', 'p.png'), text=('a', None, '', ''), label='x'))
    )


def test_several_texts_of_a_row(files, capsys):
  texts = (['a dog', 'a hound'], ['a cat'], 'a bird', ['a cow', 'an ox', 'cattle'])
  data = manifest(
    path=str(table(files, image=('f0.png', 'f1.png', 'f2.png', 'f3.png'), text=texts)), label='none'
  )
  assert [e['text'] for e in data.splits['train']] == ['a dog', 'a hound', 'a cat']
  groups = [e['group'] for e in data.splits['train']]
  assert groups[0] == groups[1] != groups[2]
  assert len({e['id'] for s in data.splits.values() for e in s}) == 7
  assert len({e['group'] for e in data.splits['test']}) == 1
  assert '3 of 4 rows' not in (out := capsys.readouterr().out) and '2 of 4 rows hold several texts' in out
  same = manifest(path=str(table(files, image='p.png', text=('a', 'b', 'c', 'd'))), label='none')
  assert len({e['group'] for s in same.splits.values() for e in s}) == 1  # one image
  with pytest.raises(KdjaxError, match='it needs one for labels'):
    manifest(path=str(table(files, image='p.png', text='a')))


def test_lists_with_labels_are_examples_of_their_own(files):
  data = manifest(path=str(table(files, text=(['a', 'b'], 'c', 'd', 'e'), label=LABELS)))
  assert [(e['text'], e['label']) for e in data.splits['train']] == [('a', 0), ('b', 0), ('c', 1)]
  plain = manifest(path=str(table(files, text='c', label=LABELS)))
  assert 'group' not in plain.splits['train'][0] and plain.splits['train'][0]['id'] == 1


def test_parquet(files):
  png = (files / 'p.png').read_bytes()
  wav = (files / 's.wav').read_bytes()
  columns = {
    'image': [
      {'bytes': png, 'path': None},
      {'bytes': None, 'path': 'p.png'},
      {'bytes': png, 'path': 'x'},
      None,
    ],
    'audio': [wav, wav, wav, wav],
    'label': [1, 0, 1, 0],
    'split': list(SPLITS),
  }
  path = files / 'rows.parquet'
  pq.write_table(pa.table(columns), path)
  data = load.dataset({'name': '', 'path': str(path)})
  assert data.classes == ('0', '1') and data.splits['train'][0]['audio'].shape == (80,)
  for split in ('train', 'validation'):
    assert all((e['image'] == 200).all() and e['image/present'] == 1 for e in data.splits[split])
  assert data.splits['test'][0]['image/present'] == 0
  assert {f.name for f in data.files} == {'rows.parquet', 'p.png'}
  path.write_bytes(b'PAR1 nothing')
  with pytest.raises(KdjaxError, match='cannot read the manifest .*rows.parquet') as caught:
    manifest(path=str(path))
  assert '\n' not in str(caught.value)


def test_parquet_of_other_types(files):
  pq.write_table(
    pa.table({'text': [['a', 'b'], ['c']] * 3, 'label': [['x'], ['y', 'x']] * 3}), files / 'r.parquet'
  )
  data = manifest(path=str(files / 'r.parquet'), label='classes', classes=('x', 'y'))
  assert sum(map(len, data.splits.values())) == 9
  buffer = io.BytesIO()
  pq.write_table(pa.table([pa.array(['a']), pa.array(['b'])], names=['text', 'text']), buffer)
  (files / 'r.parquet').write_bytes(buffer.getvalue())
  with pytest.raises(KdjaxError, match="has the column 'text' twice"):
    manifest(path=str(files / 'r.parquet'))


def test_numbers_as_labels(files):
  data = manifest(path=str(table(files, text='a', label=(1, '2.5', '', 'NA'))), label='number')
  assert data.classes == () and data.splits['train'][1]['label'] == np.float32(2.5)
  assert np.isnan([data.splits[s][0]['label'] for s in ('validation', 'test')]).all()
  for bad, words in (('cat', "the label 'cat' is no number"), (True, 'no number'), (1e40, 'finite numbers')):
    data = manifest(path=str(table(files, text='a', label=(bad, 1, 1, 1))), label='number')
    with pytest.raises(KdjaxError, match=f'line 1.*{words}'):
      data.splits['train'][0]


@pytest.mark.parametrize(
  'cells',
  [
    ('cat|dog', 'dog', '', 'cat'),
    (['cat', 'dog'], '["dog"]', None, ['cat']),
    ('cat; dog', 'dog', ' ', 'cat'),
  ],
)
def test_several_labels_of_a_row(files, cells):
  data = manifest(path=str(table(files, text='a', label=cells)), label='classes')
  assert data.classes == ('cat', 'dog')
  assert [e['label'].tolist() for s in data.splits.values() for e in s] == [[1, 1], [0, 1], [-1, -1], [1, 0]]
  assert data.fingerprint != manifest(path=str(table(files, text='a', label=LABELS))).fingerprint


@pytest.mark.parametrize(
  ('cell', 'words'),
  [
    ({'cat': 1}, 'an object'),
    ([['cat']], 'a list of names'),
    ('[cat', 'no list in JSON'),
    ('cow', "unknown label: 'cow'"),
  ],
)
def test_several_labels_that_are_none(files, cell, words):
  with pytest.raises(KdjaxError, match=f'line 4.*{words}'):
    data = manifest(path=str(table(files, text='a', label=('cat', 'cat|dog', 'cat', cell))), label='classes')
    data.splits['test'][0]


def test_a_row_that_holds_no_file(files):
  path = str(table(files, audio=('s.wav', 'nothing.wav', 's.wav', 's.wav'), label=LABELS))
  with pytest.raises(KdjaxError, match='line 2: there is no sound'):
    manifest(path=path)
  data = manifest(path=path, rate=4000, seconds=0.02)
  assert data.rate == 4000 and data.splits['train'][0]['audio'].shape == (80,)
  with pytest.raises(KdjaxError, match='line 2: there is no sound'):
    data.splits['train'][1]


def test_columns_of_arrays(files, capsys):
  """Lists, lists in a text, and .npy files; one that is missing is zeros, of which nothing is valid."""
  np.save(files / 'a.npy', np.arange(12).reshape(4, 3))
  cells = ([[1, 2, 3]] * 6, 'a.npy', '[[1, 2.5, 3]]', None)
  path = table(files, text='hello', sensor=cells, person=('x', 'y', 'x', 'z'), label=LABELS)
  data = manifest(path=str(path), arrays=('sensor',), length=5, domain='person')
  rows = [data.splits[s][i] for s, i in (('train', 0), ('train', 1), ('validation', 0), ('test', 0))]
  assert [int(r['sensor/mask'].sum()) for r in rows] == [5, 4, 1, 0]
  assert [r['sensor/present'] for r in rows] == [1, 1, 1, 0]
  np.testing.assert_array_equal(rows[1]['sensor'][:4], np.arange(12).reshape(4, 3))
  assert rows[2]['sensor'][0].tolist() == [1, 2.5, 3] and not rows[2]['sensor'][1:].any()
  assert all(r['sensor'].shape == (5, 3) and r['sensor'].dtype == np.float32 for r in rows)
  assert data.domains == ('x', 'y', 'z') and [r['domain'] for r in rows] == [0, 1, 0, 2]
  assert files / 'a.npy' in data.files and len(data.files) == 2
  assert "1 have no 'sensor'" in ''.join(capsys.readouterr())
  without = manifest(path=str(path), arrays=('sensor',), domain='person')
  assert without.fingerprint != data.fingerprint and 'sensor/mask' not in without.splits['train'][0]


@pytest.mark.parametrize(
  ('cell', 'words'),
  [
    ([[1, 2], [3]], 'no list of numbers'),
    ('[[1, 2], [3', 'sensor'),
    ([1, float('nan')], 'no array of finite numbers'),
    (['a'], 'no array of finite numbers'),
    ('p.png', 'p.png'),
    ('nowhere.npy', 'nowhere.npy'),
    (7, '7'),
  ],
)
def test_arrays_that_are_none(files, cell, words):
  path = table(files, sensor=cell, label=LABELS)
  with pytest.raises(KdjaxError, match=words) as e:
    manifest(path=str(path), arrays=('sensor',)).splits['train'][0]
  assert '\n' not in str(e.value)


def test_columns_that_are_not_there(files):
  path = table(files, sensor=[[1, 2]], label=LABELS)
  with pytest.raises(KdjaxError, match="column for 'speed'"):
    manifest(path=str(path), arrays=('speed',))
  with pytest.raises(KdjaxError, match='column for the domain'):
    manifest(path=str(path), arrays=('sensor',), domain='where')
  path = table(files, sensor=[[1, 2]], label=LABELS, who=('a', None, 'b', 'c'))
  with pytest.raises(KdjaxError, match="'who' is"):
    manifest(path=str(path), arrays=('sensor',), domain='who')
