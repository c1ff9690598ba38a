"""One run a workdir, killed runs cleared away, and folders that cannot be written."""

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kdjax.errors import KdjaxError
from kdjax.experiment import predict, predict_files, stages
from kdjax.experiment.experiment import Experiment
from kdjax.input import decoded_cache, tokenizer
from kdjax.recipes import model
from kdjax.runtime import files, workdir_lock
from kdjax.training import checkpoint

ROOT = Path(__file__).parents[1]


@pytest.fixture
def small(config):
  with config.unlocked():
    for stage in ('teacher', 'student'):
      config[stage].model = model('bag_of_words', width=4)
      config[stage].train.steps = 2
      config[stage].inputs = {'text': 'text'}
  return config


def test_a_second_run_hears_who_is_first(experiment, tmp_path):
  exp = experiment()
  with workdir_lock.held(exp.workdir):
    for _ in range(2):
      line = (
        f'w is in use by process {os.getpid()} on {socket.gethostname()} since 2.*: wait, or choose another'
      )
      with pytest.raises(KdjaxError, match=line):
        stages.run(exp)
    (exp.workdir / workdir_lock.OWNER).write_text('[')
    with pytest.raises(KdjaxError, match='in use by another process'):
      stages.run(exp)
  with workdir_lock.held(exp.workdir):  # it is free again
    pass
  assert not exp.workdir.exists()  # nothing came of it


def test_a_lock_goes_with_its_process(tmp_path):
  script = f"""
from pathlib import Path
from kdjax.runtime import workdir_lock
with workdir_lock.held(Path({str(tmp_path / 'w')!r})):
  print('mine', flush=True)
  input()
"""
  environment = os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ''}
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
  process = subprocess.Popen([sys.executable, '-c', script], env=environment, **pipes)
  assert process.stdout.readline() == 'mine\n'
  with pytest.raises(KdjaxError, match=f'in use by process {process.pid}'), workdir_lock.held(tmp_path / 'w'):
    pass
  process.kill()
  process.communicate()
  with workdir_lock.held(tmp_path / 'w'):
    owner = files.read_json(tmp_path / 'w' / workdir_lock.OWNER, workdir_lock.SCHEMA, '')
    assert owner['process'] == os.getpid()


def test_where_the_system_has_no_locks_the_owner_is_asked(tmp_path, monkeypatch):
  def unsupported(*args, **kwargs):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(workdir_lock.FileLock, 'acquire', unsupported)
  refused = pytest.raises(KdjaxError, match='If it has ended, delete')
  with workdir_lock.held(tmp_path), refused, workdir_lock.held(tmp_path):
    pass
  mine = {'process': os.getpid(), 'host': socket.gethostname(), 'since': 'then'}
  for owner, free in (({'process': 2**22 + 1}, True), ({'host': 'elsewhere'}, False), ({}, False)):
    files.write_json(tmp_path / workdir_lock.OWNER, mine | owner)
    expected = contextlib.nullcontext() if free else pytest.raises(KdjaxError, match='in use by process')
    with expected, workdir_lock.held(tmp_path):
      pass


def test_what_killed_runs_left_is_cleared(tmp_path):
  left = [tmp_path / 'w' / name for name in ('.stage.json.7', 'teacher/.seed_0.safetensors.123')]
  half = tmp_path / 'w' / 'teacher' / 'checkpoints' / '4.orbax-checkpoint-tmp' / 'tree'
  half.mkdir(parents=True)
  keep = tmp_path / 'w' / 'teacher' / '.hidden'
  for path in (*left, keep, half / 'x'):
    path.write_text('x')
  with workdir_lock.held(tmp_path / 'w'):
    assert not any(p.exists() for p in left) and not half.parent.exists() and keep.exists()
  (tmp_path / '.a.json.5').write_text('')
  files.clear_parts(tmp_path, mine=False)
  assert (tmp_path / '.a.json.5').exists()  # it may be another host's
  os.utime(tmp_path / '.a.json.5', (1, 1))
  files.clear_parts(tmp_path, mine=False)
  assert not (tmp_path / '.a.json.5').exists()


@pytest.mark.parametrize('workdir', ['/proc/x', '/dev/null/x', 'a' * 300])
def test_a_folder_that_cannot_be_is_one_line(experiment, tmp_path, workdir):
  with pytest.raises(KdjaxError, match='cannot write to --workdir=') as caught:
    stages.run(experiment(workdir))
  assert '\n' not in str(caught.value)


def test_paths_that_cannot_be(tmp_path, monkeypatch):
  with pytest.raises(KdjaxError, match="~nouser/x: there is no user 'nouser'"):
    files.user_path('~nouser/x')
  gone = tmp_path / 'gone'
  gone.mkdir()
  monkeypatch.chdir(gone)
  gone.rmdir()
  with pytest.raises(KdjaxError, match='the current folder is gone'):
    files.user_path('runs')
  monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize('path', ['gs://bucket/run', 's3://b', Path('gs://bucket/run'), 'az://c/d'])
def test_a_bucket_is_no_folder(path):
  with pytest.raises(KdjaxError, match='mount its bucket'):
    files.user_path(path)


def test_a_bucket_in_a_recipe_is_named(experiment, config):
  config.student.init = 's3://b/w.safetensors'
  with pytest.raises(KdjaxError, match='^student.init: s3://b/w.safetensors is on no disk'):
    experiment()


@pytest.mark.parametrize('path', ['C:/runs', 'hf:org/name', 'pip:NAME', './gs:/x', 'https://host/x', 'a:b'])
def test_what_is_not_a_bucket(path):
  files.check_local(path)


def test_evaluation_and_prediction_write_nothing(small, tmp_path, monkeypatch):
  exp = Experiment(small.to_dict(), tmp_path / 'w')
  stages.run(exp, ('teacher',))
  before = {p: p.stat().st_mtime_ns for p in exp.workdir.rglob('*')}

  def fails(path, *args, **kwargs):
    raise OSError(errno.EROFS, 'Read-only file system', str(path))

  with monkeypatch.context() as patched:
    for name in ('write', 'swapped_in', 'write_json'):
      patched.setattr(files, name, fails)
    patched.setattr(workdir_lock.FileLock, 'acquire', fails)
    assert stages.evaluate(Experiment(small.to_dict(), exp.workdir), 'test')['teacher']['top1']
    assert predict.load(exp.workdir, 'teacher').predict({'text': ['is it red?']})[0]
    with pytest.raises(KdjaxError, match='Read-only file system'):
      stages.run(Experiment(small.to_dict(), exp.workdir))
  assert before == {p: p.stat().st_mtime_ns for p in exp.workdir.rglob('*')}


@pytest.fixture
def tiny_disk(tmp_path):
  """`tiny_disk(kB)`: a file system of that size, where this user may mount one."""
  folder = tmp_path / 'disk'
  folder.mkdir()

  def mount(kilobytes, how='rw'):
    options = f'{how},size={kilobytes}k'
    done = subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', folder], capture_output=True)
    if done.returncode:
      pytest.skip('may not mount a file system')
    return folder

  yield mount
  subprocess.run(['umount', folder], capture_output=True)


@pytest.mark.parametrize('kilobytes', [40, 250])
def test_a_full_disk_is_one_line_and_leaves_no_half(tiny_disk, capfd, kilobytes):
  rng = np.random.default_rng(0)
  tree = {f'w{i}': rng.normal(size=2000).astype(np.float32) for i in range(30)}  # 240 kB
  folder, beside = tiny_disk(kilobytes), {'batches': {}, 'wall_time_s': 1.0, 'failed': {}}
  keeper = checkpoint.Checkpoints(folder / 'c')
  with pytest.raises(
    KdjaxError, match=r'cannot write a checkpoint .*\(the disk is full\); nothing was saved'
  ):
    keeper.save(1, tree, beside)
    keeper.wait()
  with contextlib.suppress(KdjaxError):
    keeper.close()
  time.sleep(0.1)  # threads of Orbax
  assert not list(folder.glob('c/*tmp*')) and 'Traceback' not in ''.join(capfd.readouterr())


def test_a_full_cache_is_no_error(tiny_disk, capsys):
  folder = tiny_disk(100) / 'decoded' / 'x' / 'train'
  decoded_cache.save(folder, {'x': np.zeros(10**6, np.uint8)}, {})
  assert decoded_cache.load(folder) is None and not list(folder.parents[1].glob('begun-*'))
  assert decoded_cache.usable('/proc/x') == '' and 'nothing is kept' in capsys.readouterr().out
  assert decoded_cache.usable(str(folder)) == str(folder)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_everything_is_imported_is_one_line(number):
  command = [
    sys.executable,
    '-X',
    'importtime',
    'run.py',
    '--config=configs/quickstart.py',
    '--workdir=/proc/x',
  ]
  process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
  message = ''
  while 'absl' not in message:  # our own imports are through, the long ones are not
    message += process.stderr.readline()
  process.send_signal(number)
  out, remaining = process.communicate()
  lines = [line for line in (out + remaining).splitlines() if not line.startswith('import time:')]
  assert process.returncode == 128 + number and lines == ['stopped; run the same command to go on.']


def test_tokenizers_that_do_not_fit_themselves(tmp_path):
  whole = json.loads(tokenizer.train(['a b c word'], 10).to_str())

  def result(change):
    inputs = json.loads(json.dumps(whole))
    change(inputs)
    (tmp_path / 't.json').write_text(json.dumps(inputs))
    return tokenizer.cut(tokenizer.load(tmp_path / 't.json'), 4)

  assert tokenizer.size(result(lambda t: t['model']['vocab'].update(word=99))) == 100
  with pytest.raises(KdjaxError, match='needs a token for unknown words'):
    tokenizer.encode(result(lambda t: t['model']['vocab'].pop('[UNK]')), ['unseen'])
  with pytest.raises(KdjaxError, match='ids up to 2147483648'):
    result(lambda t: t['model']['vocab'].update(word=2**31))
  post = {'type': 'TemplateProcessing', 'pair': [{'Sequence': {'id': 'A', 'type_id': 0}}]}
  post['single'] = [{'SpecialToken': {'id': 'X', 'type_id': 0}}, *post['pair']]
  post['pair'] = [*post['pair'], {'Sequence': {'id': 'B', 'type_id': 0}}]
  post['special_tokens'] = {'X': {'id': 'X', 'ids': [500], 'tokens': ['X']}}
  with pytest.raises(KdjaxError, match='gives the id 500, and the largest of its vocabulary is'):
    result(lambda t: t.update(post_processor=post))


def test_an_image_that_is_a_vector_is_a_file_of_numbers(small, tmp_path):
  exp = Experiment(small.to_dict(), tmp_path / 'w')
  stages.run(exp, ('teacher',))
  path = exp.workdir / 'teacher' / 'stage.json'
  record = files.read_json(path, dict, '') | {'inputs': {'image': 'x'}}
  shutil.rmtree(exp.workdir / 'teacher' / 'checkpoints')
  record['example']['x'] = [[5], 'float32']
  config = files.read_json(exp.workdir / 'config.json', dict, '')
  config['teacher']['inputs'] = {'image': 'x', 'text': 'text'}
  files.write_json(path, record)
  files.write_json(exp.workdir / 'config.json', config)
  predictor = predict.load(exp.workdir, 'teacher')
  assert predict_files.readable(predictor) == ('image', 'text')
  assert [predict_files.kind(predictor, k) for k in ('image', 'text')] == ['array', 'text']
