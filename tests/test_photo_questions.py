"""Questions and sentences about photographs: DAQUAR and e-SNLI-VE, in each of their layouts."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from kdjax import registry
from kdjax.errors import KdjaxError

ASKED = [  # image, question, answer, split
  *((f'image{i}', 'what is on the table', 'cup' if i % 3 else 'lamp', 'train') for i in range(1, 25)),
  ('image2', 'how many chairs are there', '2', 'train'),
  ('image3', 'what is red', 'cup, chair', 'train'),
  ('image4', 'what colour has the train', 'lamp', 'train'),
  ('image30', 'what is on the table', 'cup', 'test'),
  ('image31', 'what is blue', 'lamp', 'test'),
  ('image31', 'what is left', 'sofa', 'test'),
  ('image99', 'what is on the table', 'cup', 'test'),
]
PHOTOS = sorted({row[0] for row in ASKED} - {'image99'})


def make(name, path, **options):
  return registry.make('data', name, {'path': str(path)} | options)


def photo(value, kind):
  content = io.BytesIO()
  Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(content, kind)
  return content.getvalue()


@pytest.fixture(params=['lists', 'arrays'])
def daquar(request, tmp_path):
  """A folder in the authors' layout, or of a .jsonl and a .npz."""
  if request.param == 'lists':
    (tmp_path / 'photos').mkdir()
    for name in PHOTOS:
      (tmp_path / 'photos' / f'{name}.png').write_bytes(photo(int(name[5:]), 'png'))
    for split in ('train', 'test'):
      pairs = [f'{q} in the {image} ?\n{a}' for image, q, a, s in ASKED if s == split]
      (tmp_path / f'qa.894.raw.{split}.txt').write_text('\n'.join(pairs) + '\n')
    return tmp_path
  rows = [dict(zip(('image', 'question', 'answer', 'split'), row, strict=True)) for row in ASKED]
  (tmp_path / 'daquar_questions.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  parts = [photo(int(name[5:]), 'jpeg') for name in PHOTOS]
  offset = np.cumsum([0, *map(len, parts)])
  jpeg = np.frombuffer(b''.join(parts), np.uint8)
  np.savez(tmp_path / 'daquar_4px.npz', jpeg=jpeg, offset=offset, name=np.array(PHOTOS))
  return tmp_path


def test_the_most_frequent_single_answers_are_the_classes(daquar):
  data = make('daquar', daquar, answers=2)
  assert data.classes == ('cup', 'lamp') and set(data.splits) == {'train', 'validation', 'test'}
  test = list(data.splits['test'])
  assert [(e['text'], data.classes[e['label']]) for e in test] == [
    ('what is on the table', 'cup'),
    ('what is blue', 'lamp'),
  ]
  assert [int(e['image'][0, 0, 0]) for e in test] == [30, 31] and test[0]['image'].shape == (4, 6, 3)
  groups = [{e['group'] for e in data.splits[s]} for s in ('train', 'validation', 'test')]
  assert all(groups) and sum(map(len, groups)) == len(set.union(*groups))  # no photo is in two splits
  assert sum(len(data.splits[s]) for s in ('train', 'validation')) == 25
  assert 'what colour has the train' in {e['text'] for s in ('train', 'validation') for e in data.splits[s]}
  rule = data.heuristics['answer to the same words']
  np.testing.assert_array_equal(rule({'id': np.arange(2)}), [0, 0])
  assert make('daquar', daquar).classes == ('cup', 'lamp', '2')


def test_a_folder_without_questions_is_one_line(tmp_path):
  with pytest.raises(KdjaxError, match=r'has no questions of DAQUAR: qa\.\*\.train\.txt and'):
    make('daquar', tmp_path)
  with pytest.raises(KdjaxError, match='set --config.data.path to the folder'):
    make('daquar', '')
  for split in ('train', 'test'):
    (tmp_path / f'qa.37.raw.{split}.txt').write_text(
      'what is red in the image1 ?\ncup\nwhat is blue ?\nlamp\n'
    )
  with pytest.raises(KdjaxError, match='line 3: it is no question "… in the image7'):
    make('daquar', tmp_path)
  for split in ('train', 'test'):
    (tmp_path / f'qa.37.raw.{split}.txt').write_text('what is red in the image1 ?\ncup\n')
  with pytest.raises(KdjaxError, match="no question with an image for the split 'train'"):
    make('daquar', tmp_path)
  (tmp_path / 'image1.JPG').write_bytes(photo(1, 'jpeg'))
  text = 'what is red in the image1 ?\ncup\n'
  (tmp_path / 'qa.37.raw.train.txt').write_text(text, encoding='utf-8-sig')
  with pytest.raises(KdjaxError, match="for the split 'validation'"):
    make('daquar', tmp_path)


def table(path, rows, columns=('pairID', 'Flickr30kID', 'hypothesis', 'gold_label', 'Explanation_1')):
  with path.open('w', newline='') as file:
    csv.writer(file).writerows([columns, *rows])


def test_tables_of_entailment(tmp_path):
  (tmp_path / 'flickr30k').mkdir()
  for i in range(3):
    (tmp_path / 'flickr30k' / f'{i}.jpg').write_bytes(photo(i, 'png'))
  for i, split in enumerate(('train', 'dev', 'test')):
    rows = [('p', f'{i}.jpg', 'A dog, "running".', 'entailment', ''), ('q', f'{i}', 'A cat.', 'neutral', '')]
    table(tmp_path / f'esnlive_{split}.csv', [*rows, ('r', '77.jpg', 'Gone.', 'neutral', '')])
  data = make('visual_entailment', tmp_path)
  assert data.classes == ('entailment', 'neutral', 'contradiction')
  for i, split in enumerate(('train', 'validation', 'test')):
    first, second = data.splits[split]
    assert (first['text'], first['label'], second['label']) == ('A dog, "running".', 0, 1)
    assert first['image'][0, 0, 0] == i and first['group'] == second['group']
  table(tmp_path / 'esnlive_dev.csv', [('p', '1.jpg', 'A dog.', 'true', '')])
  with pytest.raises(KdjaxError, match=r"esnlive_dev.csv, row 2: the label is 'true'; it is one of"):
    make('visual_entailment', tmp_path)
  table(tmp_path / 'esnlive_dev.csv', [('p', 'A dog.')], ('pairID', 'hypothesis'))
  with pytest.raises(KdjaxError, match="has no column 'Flickr30kID'"):
    make('visual_entailment', tmp_path)
  (tmp_path / 'esnlive_dev.csv').unlink()
  with pytest.raises(KdjaxError, match=r'has no esnlive_dev\.csv'):
    make('visual_entailment', tmp_path)


class Photos(list):
  """Like those of flickr8k."""

  def __init__(self):
    super().__init__({'name': f'{i}.jpg', 'image': np.full((2, 2, 3), i, np.uint8)} for i in range(40))


def test_a_list_about_photos_of_flickr8k(tmp_path, monkeypatch):
  rows = [{'image': f'{i}.jpg', 'text': f'{i} {j}', 'label': 'neutral'} for i in range(50) for j in (0, 1)]
  (tmp_path / 'rows.json').write_text(json.dumps(rows))
  captions = type('Captions', (), {'photos': Photos()})
  source = type('Source', (), {'splits': {'train': captions}, 'files': ()})
  original = registry.make
  monkeypatch.setattr(registry, 'make', lambda k, n, o: source if n == 'flickr8k' else original(k, n, o))
  data = make('visual_entailment', tmp_path / 'rows.json')
  examples = {split: list(data.splits[split]) for split in ('train', 'validation', 'test')}
  assert sum(map(len, examples.values())) == 80  # ten photos are missing
  for e in sum(examples.values(), []):
    assert e['text'].split()[0] == str(e['image'][0, 0, 0])
  groups = [{e['group'] for e in part} for part in examples.values()]
  assert sum(map(len, groups)) == len(set.union(*groups)) == 40
  (tmp_path / 'rows.json').write_text(json.dumps([{'image': 'a.jpg', 'text': 'b', 'label': 'no'}]))
  with pytest.raises(KdjaxError, match="row 1: the label is 'no'"):
    make('visual_entailment', tmp_path / 'rows.json')
