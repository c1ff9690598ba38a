"""Trackers: each gets the config once, every metric of every seed, and the results; none stops a training."""

import sys
import time
import types
from pathlib import Path

import jax
import pytest

from kdjax import settings
from kdjax.errors import KdjaxError
from kdjax.experiment import overrides, stages
from kdjax.training import tracking
from kdjax.training.metrics_log import read_log

RECORD = {'loss/kd': [0.5, 0.25], 'time/step': 0.1}
RESULTS = {
  'stages': {'student': {'mean': 0.9, 'values': [0.9]}},
  'p_value': 0.04,
  'verdict': 'better',
  'higher_is_better': True,
}
CONFIG = {'name': 'tiny', 'seeds': 2, 'run': {'track': 'x'}}
SERIES = {'student/loss/kd/seed0': 0.5, 'student/loss/kd/seed1': 0.25, 'student/time/step': 0.1}
SCORES = {'results/student/mean': 0.9, 'results/p_value': 0.04}


class Fake(types.ModuleType):
  """A tracker's library that writes down what it is told, under the names that each of them has."""

  def __init__(self, name):
    super().__init__(name)
    self.begun, self.series, self.config, self.closed = [], {}, {}, 0
    self.summary = self
    self.info = types.SimpleNamespace(run_id='run1')

  def keep(self, values, step=None):
    self.series |= {k: v for k, v in values.items() if not k.endswith('/step') or k.endswith('time/step')}

  def init(self, config, **more):  # W&B and Trackio
    self.config = dict(config)
    self.begun.append(more)
    return self

  def define_metric(self, name, step_metric):
    assert name == 'student/*' and step_metric == 'student/step'

  def log(self, values, step=None):
    self.keep(values)

  def update(self, values):
    self.keep(values)

  def finish(self):
    self.closed += 1

  def MlflowClient(self, tracking_uri):
    self.begun.append(tracking_uri)
    return self

  def get_experiment_by_name(self, name):
    return None

  def create_experiment(self, name):
    return name

  def create_run(self, experiment, run_name):
    return self

  def log_param(self, run, key, value):
    assert key not in self.config
    self.config[key] = value

  def log_metric(self, run, key, value, step):
    self.keep({key: value})

  def set_terminated(self, run):
    self.finish()

  def SummaryWriter(self, path, purge_step):  # tensorboardX
    folder = Path(path).parent.name
    return types.SimpleNamespace(
      add_scalar=lambda key, value, step: self.keep(
        {f'{folder}/{key}' if folder == 'student' else key: value}
      ),
      add_text=lambda key, text, step: self.config.update(name='tiny', text=text),
      close=self.finish,
    )


def run(kind, workdir):
  with tracking.tracked(kind, workdir, 'tiny', CONFIG) as tracker:
    tracker.log(workdir / 'student', 10, RECORD)
    tracker.results(RESULTS)


@pytest.fixture
def fake(request, monkeypatch):
  library = Fake(request.param)
  monkeypatch.setitem(sys.modules, tracking.PACKAGES[request.param], library)
  return library


@pytest.mark.parametrize('fake', tracking.BACKENDS, indirect=True)
def test_config_metrics_and_results(fake, tmp_path, capsys):
  assert tracking.check(fake.__name__) is fake
  run(fake.__name__, tmp_path)
  assert capsys.readouterr().out == ''
  assert fake.series == SERIES | SCORES
  assert fake.config['name'] == 'tiny' and fake.closed
  before = dict(fake.config)
  run(fake.__name__, tmp_path)  # resumed
  assert capsys.readouterr().out == '' and fake.config == before
  if fake.__name__ == 'wandb':
    one, two = fake.begun
    assert one == two and one['mode'] == 'offline' and one['resume'] == 'allow'
  if fake.__name__ == 'trackio':
    assert fake.begun[0] == fake.begun[1]


@pytest.mark.parametrize('fake', tracking.BACKENDS, indirect=True)
@pytest.mark.parametrize('when', ['begun', 'logged'])
def test_one_that_fails_warns_once(fake, when, tmp_path, capsys, monkeypatch):
  def fail(*_, **__):
    raise OSError('no space\nleft')

  names = {
    'begun': ('init', 'MlflowClient', 'SummaryWriter'),
    'logged': ('log', 'log_metric', 'update', 'finish', 'set_terminated', 'SummaryWriter'),
  }
  for name in names[when]:
    monkeypatch.setattr(fake, name, fail)
  run(fake.__name__, tmp_path)
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith(f'warning: {fake.__name__} stopped') and 'no space left' in line


@pytest.mark.whole
@pytest.mark.parametrize('fake', ['trackio'], indirect=True)
def test_a_run_tracks_all_that_it_logs(fake, experiment, config):
  config.seeds, config.run.track = 2, 'trackio'
  exp = experiment()
  results = stages.run(exp)
  expected = tracking.scores(results)
  for stage in ('teacher', 'baseline', 'student'):
    for record in read_log(exp.folder(stage) / 'metrics.jsonl'):
      del record['step']
      expected |= {f'{stage}/{k}': v for k, v in tracking.values_of(record).items()}
  assert fake.series == expected and 'student/eval/top1/seed1' in expected
  assert fake.config['name'] == 'made' and len(fake.begun) == fake.closed == 1


@pytest.mark.parametrize('fake', ['wandb'], indirect=True)
def test_one_that_hangs_is_left_behind(fake, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(fake, 'log', lambda *_: time.sleep(5))
  monkeypatch.setattr(tracking, 'LAST_S', 0.1)
  began = time.monotonic()
  run('wandb', tmp_path)
  assert time.monotonic() - began < 3
  assert 'not written' in capsys.readouterr().out


@pytest.mark.parametrize('fake', ['wandb'], indirect=True)
def test_other_processes_and_no_tracker_do_nothing(fake, tmp_path, monkeypatch):
  run('', tmp_path)
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  run('wandb', tmp_path)
  assert not fake.begun and not list(tmp_path.iterdir())


@pytest.mark.parametrize('kind', tracking.PACKAGES)
def test_a_missing_library_is_one_line(kind, monkeypatch):
  monkeypatch.setitem(sys.modules, tracking.PACKAGES[kind], None)
  with pytest.raises(KdjaxError, match=f'pip install {tracking.PACKAGES[kind]}$'):
    tracking.check(kind)


def test_the_old_key_is_read():
  for old, new in ((True, 'tensorboard'), (False, '')):
    assert settings.complete({'name': 'x', 'run': {'tensorboard': old}})['run']['track'] == new
    config = settings.complete({'name': 'x'})
    overrides.apply(config, [('run.tensorboard', str(old)), ('run.together', '3')])
    assert config['run']['track'] == new and config['run']['members_per_program'] == 3


def test_the_cohorts_ranking_has_numbers_too():
  ranked = {
    'stages': {'teacher': {'mean': 0.9}},
    'rows': [{'name': 'kd', 'mean': 0.8}, {'name': 'x', 'failed_at': 3}],
  }
  assert tracking.scores(ranked) == {
    'results/teacher/mean': 0.9,
    'results/kd/mean': 0.8,
    'results/x/failed_at': 3.0,
  }
