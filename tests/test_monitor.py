"""What watches a training: speed in its log, the profiler's trace, the watchdog."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from kdjax.errors import KdjaxError
from kdjax.experiment import stages
from kdjax.experiment.validate import check
from kdjax.runtime import topology
from kdjax.training import monitor
from kdjax.training.metrics_log import read_log


@pytest.mark.parametrize(
  ('kind', 'name'),
  [
    ('NVIDIA H100 80GB HBM3', 'H100'),
    ('NVIDIA A100-SXM4-80GB', 'A100'),
    ('Tesla T4', 'T4'),
    ('NVIDIA H200', 'H200'),
    ('TPU v4', 'TPU v4'),
    ('TPU v5 lite', 'TPU v5e'),
    ('TPU v5', 'TPU v5p'),
    ('TPU v6 lite', 'TPU v6e'),
    ('cpu', None),
    ('NVIDIA GeForce RTX 4090', None),
  ],
)
def test_a_device_is_known_by_its_kind(kind, name):
  device = topology.kind(kind)
  assert (device and device.name) == name


def mesh(kind, stats):
  device = SimpleNamespace(device_kind=kind, memory_stats=lambda: stats)
  return SimpleNamespace(size=4, local_devices=[device])


def test_speed_of_a_step():
  """Two seconds for 64 examples and half of what four H100 can do."""
  flops = 0.5 * 2 * 4 * topology.DEVICES['h100'].flops
  record = monitor.speed(2.0, 64, flops, mesh('NVIDIA H100 80GB HBM3', {'peak_bytes_in_use': 7}))
  assert record == {'speed/examples': 8.0, 'speed/mfu': pytest.approx(0.5), 'memory/peak': 7.0}
  assert monitor.speed(2.0, 64, 0.0, mesh('cpu', None)) == {'speed/examples': 8.0}


@pytest.mark.parametrize('profile', ['10', '0:3', '5:4', 'a:b', '1:2:3', '-1:2', '²:3'])
def test_steps_that_are_none_are_refused_before_anything_is_trained(config, experiment, profile):
  config.run.profile = profile
  with pytest.raises(KdjaxError, match='run.profile is .* FIRST:LAST'):
    check(experiment())


def test_traced_steps_and_logged_speed(config, experiment):
  config.run.update(profile='2:3', log_every=2)
  config.teacher.train.steps = 6
  exp = experiment()
  stages.run(exp, ('teacher',))
  assert len(list((exp.workdir / 'teacher' / 'profile').rglob('*.xplane.pb'))) == 1
  speeds = [
    r['speed/examples'] for r in read_log(exp.workdir / 'teacher' / 'metrics.jsonl') if 'time/step' in r
  ]
  assert speeds and np.all(np.array(speeds) > 0)


WATCHED = """
import time
from kdjax.runtime import watchdog
with watchdog.watching(0.4, {ends}):
  for _ in range(10):
    time.sleep(0.1)
    watchdog.moved()
  with watchdog.paused():
    time.sleep(1)
  print('moving', flush=True)
  time.sleep({hangs})
print('through')
"""


@pytest.mark.parametrize('ends', [True, False])
def test_what_stands_still_is_said_and_ends_on_a_pod(ends):
  code = WATCHED.format(ends=ends, hangs=60 if ends else 1.5)
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=50)
  assert 'nothing has moved for 0.4 s (run.stall)' in result.stderr.splitlines()[-1]
  assert 'File "<string>", line 11 in <module>' in result.stderr  # where it stood
  assert result.stdout.split() == (['moving'] if ends else ['moving', 'through'])
  assert result.returncode == (1 if ends else 0)
