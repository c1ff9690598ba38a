"""Workdirs, stores and tables that an earlier version wrote are still read.

`old_files/first_layout.tar.xz` holds one of each, written by the version before modules and keys were
renamed: 'plain', 'stored' (its student was taught from a teacher store), 'cohort', 'half' (a student stopped
at step 4 of 6, with an average of its weights) and 'table'.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from kdjax import settings, teacher_store
from kdjax.experiment import predict, predict_files, stages
from kdjax.experiment.experiment import Experiment
from kdjax.paper_tables import MEASURES, Cell, Table
from kdjax.paper_tables.run import run
from kdjax.training import trainer

ARCHIVE = Path(__file__).parent / 'old_files' / 'first_layout.tar.xz'


@pytest.fixture
def old(tmp_path, monkeypatch):
  """`old(name)`: the experiment of a workdir, with the config that lies in it."""
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(tmp_path, filter='data')
  monkeypatch.chdir(tmp_path)

  def experiment(name):
    config = json.loads(Path(name, 'config.json').read_text())
    return Experiment(config, tmp_path / name)

  return experiment


@pytest.mark.parametrize('name, member', [('plain', ''), ('stored', ''), ('cohort', 'kd')])
def test_a_finished_workdir_is_compared_again(old, name, member):
  file = Path(name, member, 'results.json')
  before = json.loads(file.read_text())['stages']
  file.unlink()
  stages.run(old(name), ('compare',))
  after = json.loads(file.read_text())['stages']
  for stage in before:
    np.testing.assert_allclose(after[stage]['values'], before[stage]['values'], rtol=1e-5, err_msg=stage)


@pytest.mark.whole
def test_an_old_checkpoint_is_resumed(old, capsys):
  stages.run(old('half'), ('student',))
  assert 'going on from step 4 of 6' in capsys.readouterr().out
  assert old('half').done('student')


def test_an_old_store_is_read(old):
  experiment = old('stored')
  assert teacher_store.finished(teacher_store.folder(experiment))
  stages.store_command(experiment, 'verify')


def test_an_old_student_answers(old):
  predictor = predict.load(Path('plain').absolute())
  asked = predict_files.given(predictor, {'image': ['data/0.png'], 'text': ['what colour is it?']})
  answers = predictor.predict(asked.columns)
  assert len(answers[0]) == 4


def test_an_old_table_is_read_and_nothing_is_trained(old, monkeypatch):
  before = json.loads(Path('table/old.json').read_text())['panels']['Accuracy']
  config = ConfigDict(json.loads(Path('table/units/one/config.json').read_text()))
  row = {'KD': {'one': Cell(('one',), member='kd', published=90.0)}}
  table = Table(
    'old', 'Old', 'nobody', 'nowhere', {'one': config}, {'Accuracy': row}, {'top1': MEASURES['top1']}
  )
  monkeypatch.setattr(trainer, 'train', None)
  after = run(table, Path('table').absolute())['panels']['Accuracy']
  assert after['KD']['one']['values'] == before['KD']['one']['values']


def test_keys_and_values_of_before_are_understood():
  before = {'teacher': {'source': 'past'}, 'run': {'together': 4}, 'senses': {'subsets': True}}
  config = settings.complete({'name': 'old', **before, 'cohort': {'a': {'teacher': {'source': 'past'}}}})
  assert config['run']['members_per_program'] == 4 and 'together' not in config['run']
  assert config['modality_robustness']['subsets'] is True and 'senses' not in config
  sources = config['teacher']['source'], config['cohort']['a']['teacher']['source']
  assert sources == ('previous_epoch', 'previous_epoch')
  settings.check(config)
