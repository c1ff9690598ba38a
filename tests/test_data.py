"""Data sets: what they hold, that splits are apart, and what is read from them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models

from kdjax import registry
from kdjax.datasets.easy_vqa import easy_vqa
from kdjax.datasets.gaussians import gaussians
from kdjax.datasets.manifest import manifest as read_manifest
from kdjax.errors import KdjaxError
from kdjax.experiment import load
from kdjax.input import encode as encode_
from kdjax.input import images, splits, tfds_source, tokenizer
from kdjax.input.table_file import rows as read_rows

SHARED = Path(__file__).parents[2] / 'shared' / 'tfds'


@pytest.fixture(scope='session')
def vqa(shared_folder):
  return easy_vqa(data_dir=str(shared_folder / 'tfds'))


@pytest.mark.slow
def test_easy_vqa_is_whole_and_its_splits_are_apart(vqa):
  assert {k: len(v) for k, v in vqa.splits.items()} == {'train': 34683, 'validation': 3892, 'test': 9673}
  assert len(vqa.classes) == 13
  example = vqa.splits['train'][5]
  assert example['image'].shape == (64, 64, 3) and example['image'].dtype == np.uint8
  assert isinstance(example['text'], str) and 0 <= example['label'] < 13
  labels = [vqa.splits['test'][i]['label'] for i in range(len(vqa.splits['test']))]
  assert np.bincount(labels).max() / len(labels) == pytest.approx(0.373, abs=5e-4)  # as published


def test_a_manifest_is_read(manifest):
  dataset = read_manifest(path=str(manifest))
  assert dataset.classes == ('blue', 'green', 'no', 'red', 'yes')
  assert {k: len(v) for k, v in dataset.splits.items()} == {'train': 54, 'validation': 18, 'test': 18}
  example = dataset.splits['test'][0]
  assert example['image'].shape == (16, 16, 3) and example['text'] == 'what colour is it?'
  assert dataset.classes[example['label']] == 'red'
  assert dataset.fingerprint == read_manifest(path=str(manifest)).fingerprint


def test_a_csv_with_columns_of_other_names(tmp_path):
  with (tmp_path / 'rows.csv').open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['sentence', 'stars'])
    writer.writerows([[f'text, number {i}', i % 11] for i in range(200)])
  dataset = read_manifest(path=str(tmp_path / 'rows.csv'), columns={'text': 'sentence', 'label': 'stars'})
  assert dataset.classes == tuple(map(str, range(11)))  # numbers in their own order
  sizes = {k: len(v) for k, v in dataset.splits.items()}
  assert sum(sizes.values()) == 200 and all(8 < sizes[k] < 40 for k in ('validation', 'test'))
  assert dataset.splits['train'][0]['text'].startswith('text, number')


def test_what_a_file_may_hold(tmp_path):
  (tmp_path / 'r.csv').write_text('text,label\n"two\nlines, and a comma",a\nb,c\n')
  assert [r['text'] for r in read_rows(tmp_path / 'r.csv')] == ['two\nlines, and a comma', 'b']
  (tmp_path / 'r.jsonl').write_text('{"text": "a\u2028b", "label": 1}\n', encoding='utf-8')
  assert read_rows(tmp_path / 'r.jsonl')[0]['text'] == 'a\u2028b'


def test_rows_without_a_split_keep_an_image_in_one(tmp_path):
  rows = [{'image': f'{i // 4}.png', 'text': str(i), 'label': 0} for i in range(200)]
  (tmp_path / 'r.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  splits = read_manifest(path=str(tmp_path / 'r.jsonl')).splits
  images = {k: {row['image'] for row in v.table} for k, v in splits.items()}
  assert not images['train'] & images['test'] and not images['train'] & images['validation']


def test_another_content_has_another_fingerprint(tmp_path):
  prints = []
  for label in 'ab':
    (tmp_path / 'r.jsonl').write_text(json.dumps({'text': 'x', 'label': label}))
    prints.append(read_manifest(path=str(tmp_path / 'r.jsonl'), classes=('a', 'b')).fingerprint)
  assert prints[0] != prints[1]


def test_labels_that_are_not_known(tmp_path):
  rows = [{'text': 'a', 'label': x, 'split': 'train'} for x in ('p', None, '', 'q')]
  path = tmp_path / 'r.jsonl'
  path.write_text('\n'.join(map(json.dumps, [*rows, rows[0] | {'split': 'test'}])))
  dataset = read_manifest(path=str(path))
  assert [dataset.splits['train'][i]['label'] for i in range(4)] == [0, -1, -1, 1]


@pytest.mark.parametrize(
  ('mode', 'value'), [('L', 100), ('RGBA', (10, 20, 30, 5)), ('I;16', 25700), ('P', 3)]
)
def test_images_of_any_kind_become_rgb(tmp_path, mode, value):
  Image.new(mode, (5, 4), value).save(tmp_path / 'a.png')
  image = images.read_image(tmp_path / 'a.png', 'here')
  assert image.shape == (4, 5, 3) and image.dtype == np.uint8
  if mode == 'I;16':
    assert (image == 100).all()


def test_text_becomes_ids_and_a_mask():
  words = tokenizer.cut(tokenizer.train(['what colour is it?', 'is it red?'], 20), 4)
  ids, mask, _ = tokenizer.encode(words, ['is it RED?', 'is it purple', ''])
  assert ids.shape == (3, 4) and ids.dtype == np.int32
  assert mask.sum(1).tolist() == [4, 3, 0]
  assert ids[1, 2] == 1 and (ids[~mask] == 0).all()


def test_texts_are_padded_with_their_own_token():
  words = Tokenizer(models.WordLevel({'<s>': 0, '<pad>': 1, 'red': 2}, unk_token='<s>'))
  ids, mask, _ = tokenizer.encode(tokenizer.cut(words, 3), ['red'])
  assert ids.tolist() == [[2, 1, 1]] and mask.tolist() == [[True, False, False]]


def test_texts_that_are_cut_are_counted(manifest, capsys):
  dataset = read_manifest(path=str(manifest))
  encode = encode_.make_encode(tokenizer.cut(tokenizer.train(['is it red'], 9), 4), 8, len(dataset.classes))
  read = splits.read(dataset, 'test', encode)
  assert "6 of 18 have a longer 'text' than data.text_length" in capsys.readouterr().out
  assert not any(k.endswith('cut') for k in read.arrays)


def test_a_split_too_large_for_memory_is_read_as_it_goes(manifest):
  dataset = read_manifest(path=str(manifest))
  encode = encode_.make_encode(tokenizer.cut(tokenizer.train(['is it red'], 9), 6), 8, len(dataset.classes))
  lazy, held = (splits.read(dataset, 'test', encode, memory) for memory in (0, 1e9))
  assert isinstance(lazy, splits.LazySplit) and isinstance(held, splits.InMemorySplit)
  rows = np.array([5, 0, 17])
  for key, value in held.take(rows).items():
    np.testing.assert_array_equal(lazy.take(rows)[key], value)
  assert held.arrays['image'].shape == (18, 8, 8, 3)


def test_gaussians_share_what_decides():
  inputs = {'decisive': 7, 'x1': (0, 7), 'x2': (0, 4), 'sizes': (9, 9), 'train': 500, 'test': 200, 'seed': 5}
  dataset = gaussians(**inputs)
  row = [dataset.splits['train'][i] for i in range(500)]
  x1, x2, general = (np.stack([r[k] for r in row]) for k in ('x1', 'x2', 'x1_general'))
  np.testing.assert_array_equal(x1[:, :4], x2[:, :4])
  np.testing.assert_array_equal(x1[:, :4], general)
  np.testing.assert_array_equal([r['label'] for r in row], x1[:, :7].sum(1) > 0)
  assert abs(np.corrcoef(x1[:, 5], x2[:, 5])[0, 1]) < 0.2 and x1.shape == (500, 9)
  transfer, swapped = (dataset.splits[s][0] for s in ('transfer', 'transfer_swapped'))
  np.testing.assert_array_equal(transfer['x1'], swapped['x2'])
  assert np.any(transfer['x1'] != row[0]['x1'])
  again = gaussians(**inputs, same=True)
  np.testing.assert_array_equal(again.splits['train'][0]['x1'], transfer['x1'])
  assert again.fingerprint != dataset.fingerprint
  with pytest.raises(KdjaxError, match='x1 holds 0 to 20 of 60 in 10 values: no such range'):
    gaussians(decisive=60, sizes=(10, 50))


def privileged_rows(study, **options):
  splits = registry.make('data', 'privileged', {'study': study, 'train': 400, 'test': 300, **options}).splits
  return {s: {k: np.stack([e[k] for e in part]) for k in part[0]} for s, part in splits.items()}


def linear_accuracy(rows, key):
  """Of a least-squares fit to the training labels, on the test examples."""
  train, test = ({**part, 'y': 2.0 * part['label'] - 1} for part in (rows['train'], rows['test']))
  weights = np.linalg.lstsq(train[key], train['y'], rcond=None)[0]
  return np.mean((test[key] @ weights > 0) == (test['y'] > 0))


@pytest.mark.parametrize(
  ('study', 'width', 'teacher', 'student'),
  [('labels', 1, 0.9, 0.7), ('features', 50, 0.8, 0.5), ('relevant', 3, 0.9, 0.7), ('largest', 3, 0.9, 0.4)],
)
def test_privileged_inputs_decide_the_label(study, width, teacher, student):
  rows = privileged_rows(study)
  assert rows['train']['privileged'].shape == (400, width) and rows['test']['x'].shape == (300, 50)
  for key in ('x', 'privileged'):
    np.testing.assert_allclose(rows['train'][key].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(rows['train'][key].std(0), 1, atol=1e-4)
  known, regular = (linear_accuracy(rows, key) for key in ('privileged', 'x'))
  assert known > teacher and student < regular < known
  again, other = privileged_rows(study), privileged_rows(study, seed=1)
  np.testing.assert_array_equal(rows['test']['x'], again['test']['x'])
  assert np.any(rows['test']['x'] != other['test']['x'])


def test_values_of_an_example_of_its_own():
  rows = privileged_rows('own', train=2000)
  assert linear_accuracy(rows, 'privileged') < 0.7  # whose weights they are is not said
  with pytest.raises(KdjaxError, match='9 relevant values of 4'):
    privileged_rows('own', size=4, relevant=9)


@pytest.mark.skipif(not (SHARED / 'mnist').exists(), reason='without MNIST')
def test_small_and_large_digits():
  rows = privileged_rows('digits', train=50, data_dir=str(SHARED))
  large, small = (rows['test'][k] for k in ('privileged', 'x'))
  assert large.shape == (10_000, 784) and small.shape == (10_000, 49) and large.max() == 1.0
  blocks = large[:, :].reshape(-1, 7, 4, 7, 4).mean((2, 4)).reshape(-1, 49)
  assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.95  # each small pixel is of its own block
  assert len(rows['train']['label']) == 50 and set(rows['test']['label']) == set(range(10))


def test_a_student_trains_on_its_transfer_set(config, experiment):
  config.data.update(name='gaussians', path='', transfer='transfer', labels=0.5)
  config.data.options = {'train': 40, 'test': 20}
  data = experiment().data
  np.testing.assert_array_equal(data.transfer_set.arrays['x1'][0], data.dataset.splits['transfer'][0]['x1'])
  assert np.any(data.train.arrays['x1'][0] != data.transfer_set.arrays['x1'][0])
  assert 0 < np.sum(data.transfer_set.arrays['label'] >= 0) == len(data.labelled_subset) < 40
  config.data.transfer = 'nothing'
  with pytest.raises(KdjaxError, match="no split 'nothing'"):
    _ = experiment('other').data


@pytest.mark.whole
@pytest.mark.skipif(not SHARED.exists(), reason='needs the prepared data sets')
def test_a_transfer_set_without_some_classes():
  options = {'hold_out': 0, 'leave_out': (0, 1, 2, 3, 4, 5, 6, 9)}
  dataset = load.dataset({'name': 'mnist', 'options': options}, str(SHARED))
  assert dataset.splits.keys() == {'train', 'test', 'transfer'} and len(dataset.splits['train']) == 60_000
  assert len(dataset.splits['transfer']) == 12_116
  assert {int(dataset.splits['transfer'][i]['label']) for i in range(0, 12_116, 500)} == {7, 8}


def test_tfds_downloads_nothing_unless_asked_for(tmp_path, monkeypatch):
  data_dir = tmp_path / 'nowhere'
  with pytest.raises(
    KdjaxError, match="'mnist' is not prepared in .*nowhere.*options.download=True"
  ) as caught:
    load.dataset({'name': 'mnist'}, str(data_dir))
  assert '\n' not in str(caught.value) and not data_dir.exists()

  def fails(builder):
    (Path(builder.data_dir).parent / 'incomplete.1').mkdir()
    raise KdjaxError('no network')

  monkeypatch.setattr(tfds_source, '_prepare', fails)
  for kept in ((), ('other',)):
    for name in kept:
      (data_dir / name).mkdir(parents=True)
    with pytest.raises(KdjaxError, match='no network'):
      load.dataset({'name': 'mnist', 'options': {'download': True}}, str(data_dir))
    assert [p.name for p in data_dir.rglob('*')] == list(kept) and data_dir.exists() == bool(kept)


def test_limits_spread_over_the_split(manifest):
  dataset = load.limited(read_manifest(path=str(manifest)), {'train': 10, 'test': 0})
  assert len(dataset.splits['train']) == 10 and len(dataset.splits['test']) == 18
  assert dataset.splits['train'][9]['id'] == read_manifest(path=str(manifest)).splits['train'][53]['id']


@pytest.mark.skipif(not SHARED.exists(), reason='needs the prepared data sets')
@pytest.mark.parametrize(
  ('name', 'keys', 'classes'),
  [
    ('mnist', {'id', 'image', 'label'}, 10),
    ('cifar10', {'id', 'image', 'label'}, 10),
    ('glue/sst2', {'id', 'text', 'label'}, 2),
    (str(SHARED / 'mnist' / '3.0.1'), {'id', 'image', 'label'}, 10),
  ],
)
def test_prepared_data_sets_of_tfds(name, keys, classes):
  dataset = load.dataset({'name': name}, str(SHARED))
  assert len(dataset.classes) == classes and dataset.splits['train'][0].keys() == keys
  assert dataset.splits.keys() == {'train', 'validation', 'test'}
