"""OpenMoji and Flickr8k: what they hold, that splits are apart, what is said where something is missing."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from kdjax.datasets import flickr8k as photos
from kdjax.datasets import openmoji as module
from kdjax.datasets.flickr8k import flickr8k
from kdjax.datasets.openmoji import openmoji
from kdjax.errors import KdjaxError
from kdjax.experiment import load

LANGUAGES = 'en', 'de', 'ja'
NEEDS = pytest.mark.skipif(
  any(importlib.util.find_spec(p) is None for p in module.PACKAGES), reason='needs the emoji packages'
)


@pytest.fixture(scope='session')
def emoji():
  return openmoji(languages=LANGUAGES)


@NEEDS
def test_every_emoji_has_a_picture_and_a_name_in_each_language(emoji):
  rows = [row for split in emoji.splits.values() for row in split.rows]
  assert len(rows) == 3 * len({row[0] for row in rows}) > 5500
  assert all(row[1] and '_' not in row[1] and ':' not in row[1][:1] for row in rows)
  assert {row[1] for row in rows if row[2] == 'banana'} == {'banana', 'banane', 'バナナ'}
  blank = np.full((96, 96, 3), 255, np.uint8)
  assert all((image != blank).any() for image in emoji.splits['train'].images)
  assert len(emoji.classes) == 9 and 'CC-BY-SA' in emoji.licence
  sizes = {k: len(v.rows) / len(rows) for k, v in emoji.splits.items()}
  assert 0.75 < sizes['train'] < 0.85 and min(sizes.values()) > 0.08


@NEEDS
def test_an_example(emoji):
  row = next(
    i for i, row in enumerate(emoji.splits['train'].rows) if row[1] == 'apfelgrün' or row[2] == 'red apple'
  )
  example = emoji.splits['train'][row + 1]
  assert (example['english'], example['language']) == ('red apple', 1) and 'apfel' in example['text']
  assert emoji.classes[example['label']] == 'Food & Drink' and example['id'] == row + 1
  image = example['image'].reshape(-1, 3).astype(int)
  red = (image[:, 0] > 180) & (image[:, 1] < 120)
  assert 0.1 < red.mean() < 0.6 and example['image'].shape == (96, 96, 3)


@NEEDS
def test_no_emoji_and_none_like_it_is_in_two_splits(emoji):
  splits = list(emoji.splits.values())
  for key in (0, 4):  # the emoji, and its picture
    sets = [{row[key] for row in split.rows} for split in splits]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and not sets[1] & sets[2]
  of = {row[2]: i for i, split in enumerate(splits) for row in split.rows}
  for alike in (
    ('man farmer', 'woman farmer', 'farmer'),
    ('man running facing right', 'woman running', 'person running'),
    ('one o’clock', 'twelve-thirty', 'seven o’clock'),
    ('Norway', 'Svalbard & Jan Mayen'),
  ):
    assert len({of[name] for name in alike}) == 1, alike
  assert of['Netherlands'] is not None  # NL and LN share their letters, not their flag


@NEEDS
def test_prompts_are_in_the_held_out_splits_alone(emoji):
  train, test = emoji.splits['train'], emoji.splits['test']
  assert not train.prompts and len(test.prompts) > 90
  example = test[len(test) - 1]
  assert example['group'] == -1 - example['label'] and example['text'] == example['english']
  assert not example['image'].any() and {p[1] for p in test.prompts} == set(range(9))
  with pytest.raises(IndexError):
    test[len(test)]
  assert [e['id'] for e in list(test)[-2:]] == [len(test) - 2, len(test) - 1]


@NEEDS
def test_the_same_again_and_another_fingerprint_of_another(emoji):
  again = openmoji(languages=LANGUAGES)
  assert again.fingerprint == emoji.fingerprint
  np.testing.assert_array_equal(again.splits['test'].images, emoji.splits['test'].images)
  assert openmoji(languages=('en',)).fingerprint != emoji.fingerprint


@NEEDS
def test_an_unknown_language():
  with pytest.raises(KdjaxError, match="unknown language of openmoji: 'xx'"):
    openmoji(languages=('xx',))


@pytest.mark.parametrize('absent', sorted(module.PACKAGES))
def test_a_package_that_is_absent_is_one_line(monkeypatch, absent, tmp_path):
  for name in ('openmoji/font/glyf_colr0.ttf', 'data/emoji.json', '__init__.py'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('')
  there = importlib.util.spec_from_file_location('there', tmp_path / '__init__.py')
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == absent else there)
  with pytest.raises(KdjaxError, match=f'pip install {module.PACKAGES[absent]}') as e:
    openmoji()
  assert '\n' not in str(e.value)


def test_a_font_that_is_none(tmp_path):
  (tmp_path / 'a.ttf').write_bytes(b'not a font at all')
  with pytest.raises(KdjaxError, match='cannot read the font'):
    module.glyph_font(tmp_path / 'a.ttf', [(65,)])


def test_families_are_of_people_and_of_looks():
  images = np.full((6, 16, 16, 3), 255, np.uint8)
  for i in range(6):
    images[i, 2 * i : 2 * i + 3] = 0
  images[5] = images[0]
  images[5, 0, 0] = 20
  woman, man, joiner, rocket, apple = 0x1F469, 0x1F468, 0x200D, 0x1F680, 0x1F34E
  emoji = [
    (woman, joiner, rocket),
    (man, joiner, rocket),
    (apple,),
    (0x1F1F3, 0x1F1F1),
    (0x1F1F1, 0x1F1F3),
    (65,),
  ]
  result = module.families(emoji, images)
  assert result[0] == result[1] == result[5] and len(set(result)) == 4


@pytest.fixture
def download(tmp_path):
  """Twelve photos as the authors give them, some of a kind that one does not expect."""
  folder, rng, lines = tmp_path / 'download', np.random.default_rng(0), []
  (folder / 'Flicker8k_Dataset').mkdir(parents=True)
  for i in range(12):
    image = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    kind = {0: 'RGBA', 1: 'L'}.get(i)
    file = folder / 'Flicker8k_Dataset' / f'{i}.jpg'
    if i == 2:
      Image.fromarray(np.full((20, 30), 25700, np.uint16)).save(file, 'png')
    else:
      (image.convert(kind) if kind else image).save(file, 'png' if kind else 'jpeg')
    lines += [f'{i}.jpg#{j}\tphoto {i} says {j} .' for j in range(5)]
  (folder / 'Flickr8k.token.txt').write_text('\n'.join(lines))
  for split, rows in (('train', range(8)), ('dev', range(8, 10)), ('test', range(10, 12))):
    (folder / f'Flickr_8k.{split}Images.txt').write_text('\n'.join(f'{i}.jpg' for i in rows))
  return folder


def test_flickr8k_is_prepared_from_a_download(download, tmp_path):
  result = flickr8k(path=str(download), data_dir=str(tmp_path / 'tfds'), side=16)
  assert {k: len(v) for k, v in result.splits.items()} == {'train': 40, 'validation': 10, 'test': 10}
  example = result.splits['test'][7]
  assert example['text'].endswith('says 2 .') and example['image'].shape == (16, 16, 3)
  assert example['image'].dtype == np.uint8 and example['id'] == 7
  groups = [[split[i]['group'] for i in range(len(split))] for split in result.splits.values()]
  assert sorted(set(sum(groups, []))) == list(range(12)) and np.bincount(sum(groups, [])).tolist() == [5] * 12
  again = flickr8k(data_dir=str(tmp_path / 'tfds'))  # now without the download
  assert again.fingerprint == result.fingerprint
  texts = {e['text']: e['image'] for e in map(result.splits['train'].__getitem__, range(40))}
  assert abs(texts['photo 2 says 0 .'].astype(int) - 100).max() < 3  # 16 bits, scaled


def test_the_fingerprint_of_flickr8k_knows_the_side_and_the_photos(download, tmp_path):
  def prepared(folder, **options):
    return flickr8k(data_dir=str(tmp_path / folder), path=str(download), **options)

  marks = [prepared('a', side=16).fingerprint, prepared('b', side=16).fingerprint]
  marks.append(prepared('c', side=24).fingerprint)
  with pytest.raises(KdjaxError, match='side is 24, and flickr8k in .* was prepared with 16') as raised:
    prepared('a', side=24)
  assert '\n' not in str(raised.value)
  Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(download / 'Flicker8k_Dataset' / '5.jpg')
  marks.append(prepared('d', side=16).fingerprint)
  assert marks[0] == marks[1] and len(set(marks)) == 3


def test_flickr8k_of_an_earlier_version_still_reads(download, tmp_path):
  def prepared(folder, **options):
    return flickr8k(data_dir=str(tmp_path / folder), **options)

  marks = [prepared('a', path=str(download), side=16).fingerprint]
  prepared('b', path=str(download), side=24)
  for folder in 'ab':  # they had no such file
    (tmp_path / folder / 'flickr8k' / '1.0.0' / 'metadata.json').unlink()
    marks.append(prepared(folder).fingerprint)
  assert len(set(marks)) == 3 and prepared('a', side=16).fingerprint == marks[1]
  with pytest.raises(KdjaxError, match='was prepared with 16'):
    prepared('a', side=24)


def test_a_path_may_begin_with_the_home_folder(download, manifest, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(download.parent))
  inputs = {'name': 'flickr8k', 'path': '~/download', 'options': {'side': 16}}
  assert len(load.dataset(inputs, str(tmp_path / 'tfds')).splits['test']) == 10
  monkeypatch.setenv('HOME', str(manifest.parent))
  assert len(load.dataset({'name': 'manifest', 'path': '~/rows.jsonl'}).splits['test']) == 18


def test_splits_without_lists_and_captions_of_kaggle(tmp_path):
  lines = ['image,caption'] + [f'{i}.jpg,"a photo, number {i}"' for i in range(400)]
  (tmp_path / 'captions.txt').write_text('\n'.join(lines))
  texts = photos.captions(tmp_path)
  assert texts['3.jpg'] == ['a photo, number 3'] and len(texts) == 400
  splits = photos.split_of(tmp_path, list(texts))
  assert sum(map(len, splits.values())) == 400 and 25 < len(splits['test']) < 80
  assert splits == photos.split_of(tmp_path, list(texts))


def test_flickr8k_that_is_not_there(tmp_path):
  with pytest.raises(KdjaxError, match='set --data_dir to where it is prepared'):
    flickr8k(data_dir=str(tmp_path))
  with pytest.raises(KdjaxError, match='neither Flickr8k.token.txt nor captions.txt'):
    flickr8k(data_dir=str(tmp_path), path=str(tmp_path))
  (tmp_path / 'captions.txt').write_text(json.dumps({}))
  with pytest.raises(KdjaxError, match='holds no captions'):
    photos.captions(tmp_path)
