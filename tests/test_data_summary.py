"""`data`: what is in the data of a recipe, as a dict, in the terminal and as a page."""

import json

import numpy as np
import pytest

from configs import own_data
from kdjax.experiment import data_summary
from kdjax.types import DataSet


@pytest.fixture
def summary(monkeypatch, tmp_path):
  """`summary(splits, classes, task, **data)` of made examples."""

  def make(splits, classes=(), task='classification', **changes):
    monkeypatch.setattr('kdjax.experiment.load.dataset', lambda *a: DataSet(splits, classes, 'mark'))
    config = own_data.get_config(f'task={task}').to_dict()
    config['data'].update({'name': 'made', 'image_size': 0, **changes})
    return data_summary.show(config, tmp_path / 'w')

  return make


def example(i, **more):
  return {'image': np.full((4, 4, 3), i, np.uint8), 'label': i % 2, 'id': i} | more


def test_what_is_in_a_table(manifest, tmp_path, capsys):
  config = own_data.get_config().to_dict()
  config['data'].update(path=str(manifest), text_length=3)
  result = data_summary.show(config, tmp_path / 'w')
  assert result == json.loads(json.dumps(result)) and result['name'] == 'rows.jsonl'
  assert {s: x['examples'] for s, x in result['splits'].items()} == {
    'train': 54,
    'validation': 18,
    'test': 18,
  }
  train = result['splits']['train']
  assert sum(train['labels'].values()) == 54 and train['labels']['yes'] == 18 and train['unlabelled'] == 0
  assert train['keys']['image'] == 'uint8 [32, 32, 3]' and train['keys']['text'] == 'int32 [3]'
  assert train['texts']['text']['longest'] >= 4 and any(
    'longer than data.text_length, 3' in n for n in result['notes']
  )
  out = capsys.readouterr().out
  assert 'Tokens of a text' in out and 'page: ' in out
  page = (tmp_path / 'w' / 'data.html').read_text()
  assert (
    'what colour is it?' in page and 'data:image/png' in page and 'http' not in page.replace('http-equiv', '')
  )


def test_duplicates_labels_and_missing_modalities(summary, capsys):
  train = [example(i % 5, **{'image/present': np.float32(i > 0)}) for i in range(6)]
  test = [example(i, label=-1 if i else 0, **{'image/present': np.float32(1)}) for i in (0, 9, 10, 11)]
  result = summary({'train': train, 'test': test}, ('a', 'b', '<script>'))
  assert result['splits']['train']['duplicates'] == 0 and result['splits']['test']['in_train'] == 1
  assert result['splits']['train']['missing'] == {'image': pytest.approx(1 / 6)}
  assert result['splits']['test']['unlabelled'] == 3
  assert "no example of train has the class '<script>'." in result['notes']
  assert 'Missing modalities' in (out := capsys.readouterr().out) and '16.7 %' in out
  plain = summary(
    {'train': [example(i % 5) for i in range(6)], 'test': [example(i) for i in (0, 9)]}, ('a', 'b')
  )
  assert '1 of 6 examples of train have the inputs of another in it.' in plain['notes']
  assert '1 of 2 examples of test stand in train too, with the same inputs.' in plain['notes']


def test_numbers_and_several_labels(summary, tmp_path):
  numbers = [example(i, label=np.float32(np.nan if i == 3 else i)) for i in range(4)]
  result = summary({'train': numbers, 'test': numbers}, task='regression')
  assert result['splits']['train']['numbers'] == pytest.approx(
    {'mean': 1, 'std': 0.8165, 'least': 0, 'most': 2}, abs=1e-4
  )
  assert result['splits']['train']['unlabelled'] == 1
  assert any('--config.task.offset=1 --config.task.scale=0.8165' in n for n in result['notes'])
  several = [example(i, label=np.array([1, i % 2])) for i in range(4)]
  result = summary({'train': several, 'test': several}, ('a', '<b>'), 'multilabel')
  assert result['splits']['train']['labels'] == {'a': 4, '<b>': 2}
  assert '&lt;b&gt;' in (tmp_path / 'w' / 'data.html').read_text()
