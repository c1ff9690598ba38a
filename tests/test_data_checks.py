"""What is wrong or odd with the examples of a data set is found before a workdir is claimed."""

import json

import numpy as np
import pytest
from PIL import Image

from kdjax import errors
from kdjax.experiment import data_checks, stages, validate
from kdjax.experiment.workdir import checked, claim_workdir
from kdjax.recipes import model
from kdjax.teacher_store import manifest as store_manifest
from kdjax.types import DataSet

SPLITS = {'train': 12, 'validation': 6, 'test': 6}


@pytest.fixture
def small(config):
  """The fixture's config with models that take no time to trace."""
  with config.unlocked():
    for stage in ('teacher', 'student'):
      config[stage].model = model('mlp', hidden=(4,))
  return config


def example(i, **changes):
  rng = np.random.default_rng(i)
  return {'image': rng.integers(0, 255, (8, 8, 3)).astype(np.uint8), 'label': i % 2, 'id': i} | changes


@pytest.fixture
def own(small, experiment, monkeypatch):
  """`own(changed, memory)`: an experiment whose examples are `changed(split, number, example)`."""

  def make(changed=lambda split, i, one: one, memory=4e9, folder='w'):
    starts = {'train': 0, 'validation': 100, 'test': 200}
    splits = {s: [changed(s, i, example(starts[s] + i)) for i in range(n)] for s, n in SPLITS.items()}
    monkeypatch.setattr('kdjax.experiment.load.dataset', lambda *a: DataSet(splits, ('even', 'odd'), 'mark'))
    small.data.memory = memory
    return experiment(folder)

  return make


def set_in(split, number=None, **values):
  return lambda s, i, one: one | values if s == split and number in (None, i) else one


@pytest.mark.parametrize('memory', [4e9, 1.0])
@pytest.mark.parametrize(
  ('changed', 'words'),
  [
    (set_in('test', label=-1), "no example has a label in 'test'.*: set data.test=validation"),
    (set_in('train', label=-1), "no example has a label in 'train'.*teacher.init"),
    (set_in('train', 3, label=np.array([1])), r"(different shapes|example 0: 'label')"),
    (set_in('train', label=np.array([1])), r"'label' is int64 \[1\]; a class label is one whole number"),
    (set_in('validation', 2, label=5), 'example 102 has the label 5'),
    (
      set_in('test', image=np.zeros((4, 4, 3), np.uint8)),
      r"'test': 'image' is uint8 \[4, 4, 3\].*image_size",
    ),
    (set_in('test', x=np.float32([np.nan])), "example 200 of the split 'test' has values in 'x' that are no"),
    (set_in('train', id=2**31), None),
    (lambda s, i, one: {k: v for k, v in one.items() if k != 'label'}, "has no 'label'"),
    (
      lambda s, i, one: {k: v for k, v in one.items() if s == 'train' or k != 'image'},
      'the teacher cannot read',
    ),
  ],
)
def test_what_is_wrong_is_found_before_a_workdir_is_claimed(own, tmp_path, changed, words, memory):
  exp = own(changed, memory)
  if words is None:
    validate.check(exp)
    return
  with pytest.raises(errors.KdjaxError, match=words) as caught:
    stages.run(exp)
  assert '\n' not in str(caught.value) and not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
  ('changed', 'words'),
  [
    (
      lambda s, i, one: example(i) | {'id': one['id']} if s == 'test' and i < 2 else one,
      "warning: 2 of 6 examples of 'test' stand in train too",
    ),
    (set_in('train', image=np.full((8, 8, 3), 9, np.uint8)), 'train: 12 of 12 images are of one colour'),
    (lambda s, i, one: one | {'image': one['image'] % 2}, 'of bytes 0 and 1, of 255'),
    (lambda s, i, one: one | {'id': i % 5}, "train: 7 examples have the 'id' of another"),
  ],
)
@pytest.mark.parametrize('memory', [4e9, 1.0])
def test_what_is_odd_is_said(own, changed, words, memory, capsys):
  data_checks.check(own(changed, memory))
  assert words in capsys.readouterr().out
  data_checks.check(own(memory=memory, folder='plain'))
  assert 'warning' not in capsys.readouterr().out


def test_a_validation_split_without_labels_is_left_out(own, capsys):
  exp = own(set_in('validation', label=-1))
  data_checks.check(exp)
  assert exp.data.validation is None
  assert "no example has a label in 'validation', which is left out" in capsys.readouterr().out


def test_a_lazy_split_is_read_through_once(own, monkeypatch):
  read, chunks = [], data_checks.chunks
  monkeypatch.setattr(
    data_checks, 'chunks', lambda split, source: read.append(split) or chunks(split, source)
  )
  exp = own(memory=1.0)
  data_checks.check(exp)
  assert read == ['train', 'validation', 'test'] and not checked(exp)
  claim_workdir(exp)
  again = own(memory=1.0)
  assert checked(again)
  data_checks.check(again)
  assert len(read) == 3


@pytest.mark.parametrize('memory', [4e9, 1.0])
def test_one_bad_image_is_named_with_its_row(small, experiment, manifest, tmp_path, memory):
  text = manifest.read_text().splitlines()
  row = json.loads(text[4]) | {'image': str(tmp_path / 'bad.png')}
  for i, line in enumerate(text):
    text[i] = json.dumps(json.loads(line) | {'image': str(manifest.parent / json.loads(line)['image'])})
  good = text[4]
  text[4] = json.dumps(row)
  (tmp_path / 'bad.png').write_bytes((manifest.parent / '3.png').read_bytes()[:200])
  (tmp_path / 'rows.jsonl').write_text('\n'.join(text))
  small.data.update(path=str(tmp_path / 'rows.jsonl'), memory=memory)
  with pytest.raises(errors.KdjaxError, match='line 5: .*bad.png is not a readable image'):
    stages.run(experiment())
  (tmp_path / 'rows.jsonl').write_text('\n'.join([*text[:4], good, *text[5:]]))
  validate.check(experiment())


@pytest.fixture
def table(small, tmp_path):
  """A table of two grey images a split, of which the config reads."""
  rows = []
  for i, split in enumerate(('train', 'train', 'test', 'test')):
    Image.fromarray(np.full((4, 4), 40 * i, np.uint8)).save(tmp_path / f'{i}.png')
    rows.append({'image': f'{i}.png', 'label': 'xy'[i % 2], 'split': split})
  (tmp_path / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  small.data.path = str(tmp_path / 'rows.jsonl')
  return tmp_path


def test_images_replaced_under_their_names_are_other_data(table, experiment):
  claim_workdir(experiment())
  before = experiment().data.dataset
  first, second = ((table / f'{i}.png').read_bytes() for i in (0, 1))
  (table / '0.png').write_bytes(second)
  (table / '1.png').write_bytes(first)
  with pytest.raises(errors.KdjaxError, match='the data have changed'):
    claim_workdir(experiment())
  assert experiment().data.dataset.fingerprint == before.fingerprint  # that of an older version
  data = json.loads((table / 'w' / 'data.json').read_text())
  (table / 'w' / 'data.json').write_text(json.dumps({'fingerprint': data['fingerprint']}))
  claim_workdir(experiment())


def test_a_store_of_other_images_is_refused():
  mine = {'data.fingerprint': 'a', 'data.content': 'b'}
  spec = store_manifest.Spec(None, mine, (), frozenset(), 1, 1)
  assert 'data.content' in store_manifest.differs({'identity': mine | {'data.content': 'c'}}, spec, True)
  assert not store_manifest.differs({'identity': {'data.fingerprint': 'a'}}, spec, True)  # an older one


def test_what_only_the_comparison_reads_may_change(small, experiment):
  claim_workdir(experiment())
  small.data.test, small.data.limit.test = 'validation', 3
  claim_workdir(experiment())
  assert json.loads((experiment().workdir / 'config.json').read_text())['data']['test'] == 'validation'


def test_weights_that_cannot_be_read_claim_nothing(small, experiment, tmp_path):
  small.teacher.init = str(tmp_path / 'none.safetensors')
  with pytest.raises(errors.KdjaxError):
    stages.run(experiment())
  assert not (tmp_path / 'w').exists()
