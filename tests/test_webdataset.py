"""Tars of WebDataset, made here with tarfile: read where they lie, and refused where they are hostile."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from kdjax.datasets.webdataset import split_of, tars_of, webdataset
from kdjax.errors import KdjaxError
from kdjax.experiment import load
from kdjax.input import tars


def png(value):
  file = io.BytesIO()
  Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(file, 'PNG')
  return file.getvalue()


def wav(n=40):
  file = io.BytesIO()
  wavfile.write(file, 8000, np.full(n, 2**14, np.int16))
  return file.getvalue()


def npy(array):
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


def tar(path, files):
  with tarfile.open(path, 'w') as archive:
    for name, content in files.items():
      info = tarfile.TarInfo(name)
      if isinstance(content, tarfile.TarInfo):
        archive.addfile(content)
        continue
      content = content.encode() if isinstance(content, str) else content
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return path


def pairs(n, start=0):
  files = {}
  for i in range(start, start + n):
    files |= {f'{i:04}.png': png(i), f'{i:04}.txt': f'number {i}', f'{i:04}.cls': str(i % 2)}
  return files


def test_tars_with_splits(tmp_path, capsys):
  tar(tmp_path / 'train-000.tar', pairs(4) | {'__MACOSX/x.png': 'x', '.hidden.png': 'x', 'README.md': 'x'})
  tar(tmp_path / 'train-001.tar', pairs(4, 4))
  tar(tmp_path / 'val-000.tar', pairs(2, 8))
  tar(tmp_path / 'test-000.tar', pairs(2, 10))
  for path in (tmp_path / '*.tar', tmp_path):
    data = load.dataset({'name': 'webdataset', 'path': str(path)})
    assert {s: len(x) for s, x in data.splits.items()} == {'train': 8, 'validation': 2, 'test': 2}
  assert load.dataset({'name': '', 'path': str(tmp_path / '*.tar')}).fingerprint == data.fingerprint
  example = data.splits['train'][5]
  assert example.keys() == {'id', 'image', 'text', 'label'} and example['id'] == 7 and example['label'] == 1
  assert (example['image'] == 5).all() and example['text'] == 'number 5' and data.classes == ('0', '1')
  assert 'train 8, validation 2, test 2.' in capsys.readouterr().out
  few = load.dataset({'name': '', 'path': str(tmp_path / 'train-{000..001}.tar')})
  assert sum(map(len, few.splits.values())) == 8 and all(map(len, few.splits.values()))


def test_one_tar_of_all_kinds(tmp_path, capsys):
  files = {}
  for i in range(40):
    files[f'a/{i}.wav'] = wav(40 - i % 3)
    files[f'a/{i}.json'] = json.dumps({'caption': f'c{i}', 'label': 'even' if i % 2 == 0 else 'odd'})
    if i % 4:
      files[f'a/{i}.npy'] = npy(np.full((2, 3, 3), i, np.uint8))
  data = load.dataset({'name': '', 'path': str(tar(tmp_path / 'x.tar', files))})
  assert data.classes == ('even', 'odd') and data.rate == 8000
  for split in data.splits.values():
    for e in split:
      assert e['audio'].shape == (40,) and e['text'] == f'c{e["id"]}' and e['label'] == e['id'] % 2
      assert e['image/present'] == (e['id'] % 4 > 0) and e['image'].shape == (2, 3, 3)
  assert '(drawn)' in (out := capsys.readouterr().out) and '10 of 40 examples have no image' in out


def test_what_is_held_out_is_not_the_first_by_name(tmp_path):
  files = {}
  for i in range(40):
    files |= {f'{"ab"[i // 20]}{i:02}.txt': 'x', f'{"ab"[i // 20]}{i:02}.cls': 'ab'[i // 20]}
  tar(tmp_path / 'train.tar', files)
  tar(tmp_path / 'test.tar', files)
  data = webdataset(path=str(tmp_path / '*.tar'))
  assert len(data.splits['validation']) == 4 and {e['label'] for e in data.splits['validation']} == {0, 1}


def test_names_of_tars(tmp_path):
  assert [split_of(tmp_path / n) for n in ('train-1.tar', 'valid_2.tar', 'dev/0.tar', 'cats.tar')] == [
    'train',
    'validation',
    'validation',
    '',
  ]
  with pytest.raises(KdjaxError, match='there is no tar .*nothing'):
    tars_of(str(tmp_path / 'nothing*.tar'))
  with pytest.raises(KdjaxError, match='more than 100,000 tars'):
    tars_of('x{0..999}{0..999}.tar')
  with pytest.raises(KdjaxError, match='which tars'):
    webdataset()


def special(kind, target=''):
  info = tarfile.TarInfo('0001.png')
  info.type, info.linkname = kind, target
  return info


@pytest.mark.parametrize(
  ('files', 'words'),
  [
    ({}, 'has no images, sounds, texts or arrays'),
    ({'x': special(tarfile.SYMTYPE, '/etc/passwd')}, "'0001.png' is no file but a link"),
    ({'x': special(tarfile.LNKTYPE, '0000.png')}, 'is no file but a link'),
    ({'x': special(tarfile.FIFOTYPE)}, 'is no file but a link, pipe'),
    ({'1.png': png(0)}, 'it needs a label'),
    ({'1.cls': '0'}, 'it needs a label .* and an image'),
    ({'1.png': png(0), '1.cls': '0', '1.PNG': png(1)}, "has '1.PNG' twice"),
    (pairs(1), 'too few to draw splits'),
    ({'1.json': '[1]', '1.png': png(0)}, '1.json is a list'),
    ({'1.json': '{', '1.png': png(0)}, '1.json is no JSON'),
  ],
)
def test_tars_that_are_refused(tmp_path, files, words):
  path = tar(tmp_path / 'x.tar', files)
  with pytest.raises(KdjaxError, match=words) as caught:
    webdataset(path=str(path))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('name', 'content', 'words'),
  [
    ('0000.png', b'no image', '0000 is not a readable image'),
    ('0000.txt', b'\xff', '0000.txt is not UTF-8'),
  ],
)
def test_members_that_cannot_be_read(tmp_path, name, content, words):
  tar(tmp_path / 'train.tar', pairs(2) | {name: content})
  tar(tmp_path / 'test.tar', pairs(2, 5))
  data = webdataset(path=str(tmp_path / '*.tar'))
  with pytest.raises(KdjaxError, match=words):
    data.splits['train'][0]


def test_arrays_of_objects_are_not_unpickled(tmp_path):
  file = io.BytesIO()
  np.save(file, np.array([{}], object), allow_pickle=True)
  good = npy(np.zeros((2, 2), 'u1'))
  files = {'1.npy': file.getvalue(), '1.cls': 'a', '2.npy': good, '2.cls': 'b'}
  path = tar(tmp_path / 'train.tar', files)
  tar(tmp_path / 'test.tar', {'3.npy': npy(np.zeros((2, 2), 'u1')), '3.cls': 'b'})
  data = webdataset(path=str(path.parent / '*.tar'))
  with pytest.raises(KdjaxError, match='an array of objects, which are pickles'):
    data.splits['train'][0]


def test_damaged_tars(tmp_path, monkeypatch):
  path = tar(tmp_path / 'x.tar', pairs(12))
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 3 - 256])
  with pytest.raises(KdjaxError, match='x.tar (is not a readable tar|ends within)'):
    webdataset(path=str(path))
  path.write_bytes(b'\x1f\x8b no tar' * 99)
  with pytest.raises(KdjaxError, match='not a readable tar, not compressed'):
    webdataset(path=str(path))
  monkeypatch.setattr(tars, 'LARGEST', 10)
  path.write_bytes(whole)
  with pytest.raises(KdjaxError, match=r"'0000.png' has \d+ bytes; at most 10 are read"):
    webdataset(path=str(path))


def test_several_labels(tmp_path):
  files = {f'{i}.txt': 'x' for i in range(6)} | {f'{i}.cls': 'a|b' if i % 2 else 'b' for i in range(6)}
  tar(tmp_path / 'train.tar', files)
  tar(tmp_path / 'test.tar', files)
  data = webdataset(path=str(tmp_path / '*.tar'), label='classes')
  assert data.classes == ('a', 'b') and [e['label'].tolist() for e in data.splits['test']][:2] == [
    [0, 1],
    [1, 1],
  ]
