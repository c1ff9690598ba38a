"""Real processes that train together over loopback: the same numbers, and what happens when one dies."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from kdjax.training.metrics_log import read_log
from metric_records import untimed

ROOT = Path(__file__).parents[1]
RECIPE = """
from kdjax.recipes import base, model, training

def get_config(arg=None):
  config = base('tiny')
  config.seeds = 2
  config.data.update(name='gaussians')
  config.data.options = {'decisive': 20, 'x1': (0, 20), 'x2': (0, 10), 'train': 256, 'test': 70}
  for stage, hidden in (('teacher', (32,)), ('student', (16,))):
    config[stage].model = model('mlp', hidden=hidden)
    config[stage].train = training(24, 32, 1e-2)
    config[stage].inputs = {'image': 'x2' if stage == 'student' else 'x1'}
  config.methods = {'kd': {'weight': 0.5, 'temperature': 1.0}, 'rkd': {'weight': 1.0}}
  config.run.update(eval_every=12, log_every=6, save_every=6, eval_batch=32)
  return config
"""


LONG = 'teacher', 'student', '--config.student.train.steps=96'


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
  path = tmp_path_factory.mktemp('recipe') / 'tiny.py'
  path.write_text(RECIPE)
  return path


@pytest.fixture(scope='module')
def never_killed(recipe, tmp_path_factory):
  """The workdir of two processes that run to the end."""
  workdir = tmp_path_factory.mktemp('whole') / 'w'
  for status, output in ended(pod(recipe, workdir, *LONG)):
    assert status == 0, output
  return workdir


def free_port():
  with socket.socket() as probe:
    probe.bind(('', 0))
    return probe.getsockname()[1]


def start(recipe, *flags, cwd=ROOT):
  """A process of the command."""
  environment = os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}
  command = [sys.executable, str(ROOT / 'run.py'), f'--config={recipe}', '--cache=', *flags]
  options = {'text': True, 'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT}
  return subprocess.Popen(command, env=environment, cwd=cwd, **options)


def pod(recipe, workdir, *flags, n=2, each=None, cwds=None):
  """The `n` processes of one run; `each` are further flags of every one."""
  port = free_port()
  return [
    start(
      recipe,
      f'--workdir={workdir}',
      f'--coordinator=127.0.0.1:{port}',
      f'--num_processes={n}',
      f'--process_id={i}',
      '--heartbeat_timeout=15',
      *flags,
      *(each[i] if each else ()),
      cwd=cwds[i] if cwds else ROOT,
    )
    for i in range(n)
  ]


def ended(processes, timeout=240):
  """(exit status, output) of each; none is left running."""
  try:
    return [(p.communicate(timeout=timeout)[0], p.returncode)[::-1] for p in processes]
  finally:
    for process in processes:
      process.kill()


def errors(output):
  return [line for line in output.splitlines() if line.startswith('error: ')]


def wait_for(pattern, processes):
  folder, name = pattern.parent, pattern.name
  until = time.monotonic() + 240
  while all(p.poll() is None for p in processes) and not list(folder.glob(name)):
    assert time.monotonic() < until
    time.sleep(0.02)


def weights(workdir):
  return {f.relative_to(workdir): load_file(f) for f in sorted(Path(workdir).rglob('seed_*.safetensors'))}


def same(one, two, **tolerance):
  assert one.keys() == two.keys() and one
  for name, arrays in one.items():
    for key, value in arrays.items():
      if tolerance:
        np.testing.assert_allclose(two[name][key], value, **tolerance)
      else:
        assert np.array_equal(two[name][key], value), (name, key)


@pytest.mark.whole
def test_two_processes_are_one(recipe, tmp_path):
  ((status, output),) = ended([start(recipe, f'--workdir={tmp_path / "one"}')])
  assert status == 0, output
  for status, output in ended(pod(recipe, tmp_path / 'two')):
    assert status == 0 and not errors(output), output
  same(weights(tmp_path / 'one'), weights(tmp_path / 'two'), atol=2e-5)
  one, two = (json.loads((tmp_path / d / 'results.json').read_text()) for d in ('one', 'two'))
  for stage in ('teacher', 'baseline', 'student'):
    first, second = (read_log(tmp_path / d / stage / 'metrics.jsonl') for d in ('one', 'two'))
    for a, b in zip(map(untimed, first), map(untimed, second), strict=True):
      assert a.keys() == b.keys() and all(np.allclose(a[k], b[k], atol=1e-4) for k in a), (a, b)
  assert one.keys() == two.keys()


@pytest.mark.whole
@pytest.mark.parametrize(
  'victim, moment',
  [
    (0, 'student/checkpoints/18'),  # in training
    (1, 'student/checkpoints/18'),
    (0, 'student/checkpoints/*tmp*'),  # in saving
    (1, 'student/checkpoints/*tmp*'),
    (1, 'teacher/stage.json'),  # between stages
  ],
)
def test_one_is_killed_and_all_start_again(victim, moment, recipe, never_killed, tmp_path):
  """The other one ends with one line, within the heartbeat's time; the restart goes on to the same bits."""
  processes = pod(recipe, tmp_path / 'killed', *LONG)
  wait_for(tmp_path / 'killed' / moment, processes)
  processes[victim].send_signal(signal.SIGKILL)
  began = time.monotonic()
  results = ended(processes)
  assert time.monotonic() - began < 200  # else it hung
  status, output = results[1 - victim]
  assert status not in (0, None) and results[victim][0] == -signal.SIGKILL
  (line,) = errors(output)
  assert 'another process of the pod has ended' in line and 'start all of them again' in line
  assert 'Traceback' not in output and 'stack trace' not in output
  again = ended(pod(recipe, tmp_path / 'killed', *LONG))
  assert [status for status, _ in again] == [0, 0], again
  assert 'teacher: done before' in again[0][1]
  if moment.endswith('18'):
    assert re.search(r'student: going on from step \d+ of 96', again[0][1])
  same(weights(never_killed), weights(tmp_path / 'killed'))


HANGS = """
import sys, time
from kdjax.training.loop import TrainLoop
step = TrainLoop.step
def hangs(self, states, *args):
  if self.setup.name == 'student' and (self.folder / 'checkpoints').exists() and '--process_id=1' in sys.argv:
    time.sleep(1000)
  return step(self, states, *args)
TrainLoop.step = hangs
"""


@pytest.mark.whole
def test_one_hangs_and_all_end_and_start_again(recipe, never_killed, tmp_path):
  """Its Python waits for ever, while its process lives and answers."""
  hanging = tmp_path / recipe.name
  hanging.write_text(HANGS + RECIPE)
  workdir = tmp_path / 'w'
  results = ended(pod(hanging, workdir, *LONG, '--config.run.stall=45'))
  assert all(status for status, _ in results)
  said = [line for _, output in results for line in errors(output)]
  assert any('nothing has moved for 45 s' in line for line in said), results
  assert 'in hangs' in results[1][1]  # the stack says where
  for status, output in ended(pod(recipe, workdir, *LONG)):
    assert status == 0, output
  same(weights(never_killed), weights(workdir))


@pytest.mark.whole
@pytest.mark.parametrize('told', [0, 1])
def test_one_is_told_to_stop_and_all_save_the_same_step(told, recipe, tmp_path):
  steps = '--config.teacher.train.steps=4000', '--config.run.save_every=4000', '--config.run.eval_every=4000'
  processes = pod(recipe, tmp_path / 'w', 'teacher', *steps)
  wait_for(tmp_path / 'w/teacher/metrics.jsonl', processes)
  processes[told].send_signal(signal.SIGTERM)
  began = time.monotonic()
  results = ended(processes)
  assert [status for status, _ in results] == [143, 143], results
  assert time.monotonic() - began < 200
  (saved,) = (p.name for p in (tmp_path / 'w/teacher/checkpoints').iterdir() if p.name.isdigit())
  assert f'teacher: saved at step {saved}' in results[0][1] and 0 < int(saved) < 4000


@pytest.mark.whole
@pytest.mark.parametrize(
  'each, words',
  [
    (((), ('--config.student.train.steps=30',)), 'student.train.steps: 30 there, 24 here'),
    (((), ('--workdir=other',)), 'does not see'),
  ],
)
def test_hosts_that_differ_are_refused_on_all(each, words, recipe, tmp_path):
  began = time.monotonic()
  results = ended(pod(recipe, tmp_path / 'w', each=each, cwds=(tmp_path, tmp_path)))
  assert time.monotonic() - began < 200
  for status, output in results:
    (line,) = errors(output)
    assert status == 1 and words in line and 'process 1 on' in line, output
  assert not (tmp_path / 'w').exists()


@pytest.mark.whole
def test_data_that_differ_or_fail_on_one_host_end_all(manifest, tmp_path):
  recipe = tmp_path / 'own.py'
  recipe.write_text(
    'from kdjax.recipes import base, model, training\n'
    'def get_config():\n'
    "  config = base('own')\n"
    "  config.data.update(name='manifest', path='rows.jsonl', text_length=8, vocab_size=32)\n"
    "  for stage in ('teacher', 'student'):\n"
    "    config[stage].model = model('bag_of_words', width=8)\n"
    '    config[stage].train = training(4, 8, 1e-2)\n'
    "  config.methods = {'kd': {'weight': 1.0}}\n"
    '  config.run.update(eval_batch=16)\n'
    '  return config\n'
  )
  rows = [json.loads(line) | {'image': ''} for line in manifest.read_text().splitlines()]
  rows = [{k: v for k, v in row.items() if v} for row in rows]
  folders = [tmp_path / f'host{i}' for i in range(2)]
  for folder in folders:
    folder.mkdir()
  (folders[0] / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  results = ended(pod(recipe, tmp_path / 'w', cwds=folders))
  for status, output in results:
    (line,) = errors(output)
    assert status == 1 and 'rows.jsonl' in line, output
  assert 'process 1 on' in errors(results[0][1])[0]

  rows[0]['text'] = 'another question?'
  (folders[1] / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  for status, output in ended(pod(recipe, tmp_path / 'w', cwds=folders)):
    (line,) = errors(output)
    assert status == 1 and 'differ: ' in line and 'same data' in line, output


@pytest.mark.whole
@pytest.mark.parametrize('process', [0, 1])
def test_a_process_that_nobody_joins_says_so(process, recipe, tmp_path):
  flags = f'--coordinator=127.0.0.1:{free_port()}', '--num_processes=2', f'--process_id={process}'
  began = time.monotonic()
  ((status, output),) = ended([start(recipe, f'--workdir={tmp_path / "w"}', *flags, '--join_timeout=6')])
  (line,) = errors(output)
  assert status not in (0, None) and '6 s (--join_timeout)' in line and 'stack trace' not in output
  assert time.monotonic() - began < 200 and not (tmp_path / 'w').exists()


@pytest.mark.whole
def test_a_store_of_four_is_read_by_one(recipe, tmp_path):
  """Four processes write its shards, each those of its own; one process trains on it what it trains live."""
  live, stored = tmp_path / 'live', tmp_path / 'stored'
  for workdir, source in ((live, 'live'), (stored, 'store')):
    flags = '--config.store.shard=20', f'--config.teacher.source={source}', f'--workdir={workdir}'
    flags = *flags, '--config.store.dtype=float32'
    ((status, output),) = ended([start(recipe, 'teacher', *flags)])
    assert status == 0, output
  for status, output in ended(pod(recipe, stored, 'store', 'build', *flags, n=4)):
    assert status == 0 and not errors(output), output
  for command in ('store', 'verify'), ('student',):
    ((status, output),) = ended([start(recipe, *command, *flags)])
    assert status == 0, output
  ((status, output),) = ended([start(recipe, 'student', f'--workdir={live}')])
  assert status == 0, output
  same(weights(live), weights(stored), atol=1e-5)


@pytest.mark.whole
def test_weights_split_over_processes_go_on_in_one(recipe, tmp_path):
  """Two processes that hold half of every array each; stopped, one process goes on from their checkpoint."""
  flags = 'teacher', 'student', '--config.student.model.hidden=(64,)', '--config.teacher.model.hidden=(64,)'
  split = '--config.run.mesh.fsdp=2', '--config.run.shard.teacher=auto', '--config.run.shard.student=auto'
  long = '--config.student.train.steps=600', '--config.run.eval_every=600'
  ((status, output),) = ended([start(recipe, f'--workdir={tmp_path / "one"}', *flags, *long)])
  assert status == 0, output
  processes = pod(recipe, tmp_path / 'two', *flags, *split, *long)
  wait_for(tmp_path / 'two/student/checkpoints/18', processes)
  processes[1].send_signal(signal.SIGTERM)
  for status, output in ended(processes):
    assert status == 143 and not errors(output), output
  ((status, output),) = ended([start(recipe, f'--workdir={tmp_path / "two"}', *flags, *long)])
  assert status == 0 and 'student: going on from step' in output, output
  same(weights(tmp_path / 'one'), weights(tmp_path / 'two'), atol=5e-3)
