"""Killed at any moment and started again, a run ends in the very same weights."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from kdjax.errors import KdjaxError
from kdjax.experiment import stages
from kdjax.runtime import files, signals
from kdjax.training import checkpoint
from kdjax.training.metrics_log import read_log

ROOT = Path(__file__).parents[1]
RUN = """
import sys, json
from kdjax.runtime import signals
from kdjax.experiment import stages
from kdjax.experiment.experiment import Experiment
config = json.load(open(sys.argv[1]))
try:
  stages.run(Experiment(config, __import__('pathlib').Path(sys.argv[2])), tuple(sys.argv[3:]))
except signals.Interrupted:
  sys.exit(143)
"""


@pytest.fixture
def start(config, tmp_path):
  """`start(folder)`: the run of the made config in a process of its own."""
  config.teacher.train.steps = config.student.train.steps = 24
  config.run.update(save_every=3, eval_every=10)
  config.select, config.seeds = 'best', 2
  config.student.train.ema = 0.9
  config.methods = {'kd': {'weight': 1.0}, 'fitnet': {'weight': 1.0}}
  (tmp_path / 'config.json').write_text(config.to_json())
  environment = os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}

  def start(folder, *stages):
    files = [str(f) for f in (tmp_path / 'config.json', tmp_path / folder)]
    return subprocess.Popen(
      [sys.executable, '-c', RUN, *files, *(stages or ('teacher', 'student'))],
      env=environment,
      cwd=ROOT,
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )

  return start


def wait_for(path, process):
  while process.poll() is None and not list(path.parent.glob(path.name)):
    time.sleep(0.02)


def weights(folder):
  return {f.relative_to(folder): f.read_bytes() for f in folder.rglob('seed_*.safetensors')}


@pytest.mark.whole
@pytest.mark.optimised
def test_kill_and_resume_is_bit_identical(start, tmp_path):
  whole = start('whole')
  assert whole.wait() == 0, whole.stdout.read()
  killed = tmp_path / 'killed'
  # In the middle of the teacher, of the student, and while the student's checkpoint is written.
  signs = 'teacher/checkpoints/9', 'student/checkpoints/12', 'student/checkpoints/*tmp*'
  message = ''
  for sign in signs:
    process = start('killed')
    wait_for(killed / sign, process)
    process.send_signal(signal.SIGKILL)
    message += process.communicate()[0]
  last = start('killed')
  message += last.communicate()[0]
  assert last.returncode == 0 and message.count('going on from step') >= 2, message
  assert weights(killed) == weights(tmp_path / 'whole') and len(weights(killed)) == 3
  steps = [r['step'] for r in read_log(killed / 'student' / 'metrics.jsonl')]
  assert steps == sorted(steps)


@pytest.mark.whole
def test_a_termination_saves_and_exits(start, tmp_path):
  process = start('w', 'teacher')
  wait_for(tmp_path / 'w/teacher/checkpoints/3', process)
  process.send_signal(signal.SIGTERM)
  out = process.communicate()[0]
  assert process.returncode == 143 and 'Traceback' not in out, out
  saved = max(int(p.name) for p in (tmp_path / 'w/teacher/checkpoints').iterdir() if p.name.isdigit())
  again = start('w', 'teacher')
  assert f'going on from step {saved}' in again.communicate()[0]


def damage(folder):
  """Cuts every file with content in half."""
  for file in folder.rglob('*'):
    if file.is_file() and file.stat().st_size > 100:
      os.truncate(file, file.stat().st_size // 2)


@pytest.mark.whole
@pytest.mark.optimised
def test_a_truncated_checkpoint_falls_back_to_the_one_before(experiment, config, capsys):
  stages.run(whole := experiment('whole'), ('baseline',))
  config.student.train.steps = 6
  exp = experiment('cut')
  stages.run(exp, ('baseline',))
  (exp.folder('baseline') / 'stage.json').unlink()
  damage(exp.folder('baseline') / 'checkpoints' / '6')
  capsys.readouterr()
  stages.run(experiment('cut'), ('baseline',))
  out = capsys.readouterr().out
  assert 'cannot be read' in out and 'going on from step 4' in out
  one, two = (load_file(e.folder('baseline') / 'seed_0.safetensors') for e in (whole, exp))
  assert all((one[k] == two[k]).all() for k in one)


@pytest.mark.whole
def test_when_no_checkpoint_can_be_read_nothing_is_overwritten(experiment):
  exp = experiment()
  stages.run(exp, ('baseline',))
  (exp.folder('baseline') / 'stage.json').unlink()
  for step in (exp.folder('baseline') / 'checkpoints').iterdir():
    damage(step)
  for _ in range(2):
    with pytest.raises(KdjaxError, match='none of the checkpoints'):
      stages.run(experiment(), ('baseline',))
  assert {p.name for p in (exp.folder('baseline') / 'checkpoints').iterdir()} == {'4', '6'}


def test_a_signal_in_the_last_step_is_heard(experiment, config, monkeypatch):
  exp = experiment()
  last = iter([False] * (config.teacher.train.steps - 1) + [True] * 9)
  with pytest.raises(signals.Interrupted, match='saved at step 6'):
    stages.train_stage(exp, 'teacher', stopped=lambda: next(last))
  assert not exp.done('teacher')
  restore = checkpoint.Checkpoints.restore

  def after_an_hour(self, target):
    restored = restore(self, target)
    return restored._replace(data=restored.data | {'wall_time_s': 3600.0})

  monkeypatch.setattr(checkpoint.Checkpoints, 'restore', after_an_hour)
  stages.run(exp, ('teacher',))
  assert exp.done('teacher') and exp.summary('teacher')['wall_time_s'] > 3600


def test_a_file_is_swapped_in_whole(tmp_path):
  files.write(tmp_path / 'a.json', 'old')
  with pytest.raises(TypeError):
    files.write_json(tmp_path / 'a.json', {1: object, ('no', 'key'): 2})
  assert (tmp_path / 'a.json').read_text() == 'old' and len(list(tmp_path.iterdir())) == 1
