"""Several steps a dispatch, and data on the device: the same training."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from kdjax.errors import KdjaxError
from kdjax.experiment import stages
from kdjax.runtime import signals
from kdjax.training import multi_step
from kdjax.training.metrics_log import read_log
from metric_records import untimed

DUE = {'log_every': 2, 'save_every': 2, 'eval_every': 6}


def trained(result, stage='student'):
  stages.run(result, (stage,) if stage == 'baseline' else ('teacher', stage))
  files = sorted(result.folder(stage).glob('*.safetensors'))
  return [load_file(f) for f in files], read_log(result.folder(stage) / 'metrics.jsonl')


def records(rows):
  return [untimed(row) for row in rows]


@pytest.mark.whole
@pytest.mark.optimised
def test_data_on_the_device_train_the_same_to_the_last_bit(experiment, config):
  config.student.train.augment = ('flip', 'crop')
  first, log = trained(experiment('host'))
  config.run.resident = 'yes'
  second, same = trained(experiment('device'))
  assert records(log) == records(same)
  assert all(np.array_equal(first[0][k], second[0][k]) for k in first[0])


@pytest.mark.whole
def test_several_steps_a_dispatch_train_the_same(experiment, config):
  config.seeds = 2
  config.run.update(DUE)
  first, log = trained(experiment('each'))
  config.run.update(dispatch=2, resident='yes')
  second, same = trained(experiment('both'))
  for a, b in zip(first, second, strict=True):
    assert all(np.allclose(a[k], b[k], atol=1e-5) for k in a)
  for a, b in zip(records(log), records(same), strict=True):
    assert a.keys() == b.keys() and all(np.allclose(a[k], b[k], atol=1e-4) for k in a)


@pytest.mark.whole
def test_it_goes_on_in_another_stride(experiment, config):
  config.run.update(DUE)
  whole, _ = trained(experiment('whole'))
  exp, stops = experiment('stopped'), iter([False, False, True])
  stages.run(exp, ('teacher',))
  with pytest.raises(signals.Interrupted):
    stages.train_stage(exp, 'student', stopped=lambda: next(stops, True))
  config.run.update(dispatch=2, save_every=6)
  with pytest.raises(KdjaxError, match='what is left of the steps, 3, is no multiple'):
    stages.run(experiment('stopped'), ('student',))
  config.run.update(dispatch=3, log_every=3)
  result, _ = trained(experiment('stopped'))
  assert all(np.allclose(result[0][k], whole[0][k], atol=1e-5) for k in result[0])


@pytest.mark.whole
def test_on_eight_devices(experiment, config, eight_devices):
  config.run.update(DUE)
  first, _ = trained(experiment('each'), 'baseline')
  config.run.update(dispatch=2, resident='yes')
  second, _ = trained(experiment('both'), 'baseline')
  assert all(np.allclose(first[0][k], second[0][k], atol=1e-5) for k in first[0])


def test_what_cannot_be(experiment, config):
  config.run.dispatch = 4
  with pytest.raises(
    KdjaxError, match=r'run.dispatch is 4, and teacher.train.steps, 6, is no multiple of it'
  ):
    stages.run(experiment(), ('teacher',))
  config.run.update(dispatch=1, resident='yes')
  config.teacher.source = 'store'
  with pytest.raises(KdjaxError, match='and a live teacher'):
    stages.run(experiment(), ('teacher',))
  assert not experiment().workdir.exists()
  with pytest.raises(KdjaxError, match='1 or more'):
    multi_step.check(0, 'jit', {})
  with pytest.raises(KdjaxError, match='alone'):
    multi_step.check(2, 'pmap', {})
  with pytest.raises(KdjaxError, match='Choose from: auto, no, yes'):
    multi_step.lives_on_device('always', {}, 1.0)
  with pytest.raises(KdjaxError, match='within data.memory'):
    multi_step.lives_on_device('yes', None, 1.0)


def test_auto_is_for_accelerators_with_room(monkeypatch):
  arrays = {'image': np.zeros(100, np.uint8)}
  assert not multi_step.lives_on_device('auto', arrays, 1e9)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert multi_step.lives_on_device('auto', arrays, 1000)
  assert not multi_step.lives_on_device('auto', arrays, 300) and not multi_step.lives_on_device(
    'auto', None, 1e9
  )
