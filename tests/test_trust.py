"""A name in a file of somebody else runs nothing: only what was typed for this run is imported."""

import json
import sys

import pytest

from kdjax import recipes, registry
from kdjax.cli import commands
from kdjax.cli import recipe as command_recipe
from kdjax.errors import KdjaxError
from kdjax.experiment import build, predict
from kdjax.runtime import trust
from kdjax.types import Method

MODEL = """
import dataclasses, subprocess
import flax.linen as nn
from kdjax.models.text.bag_of_words import BagOfWords
from distutils.spawn import spawn

def my_model(): raise SystemError('called')
class MyModel(BagOfWords): pass
"""
METHOD = """
from kdjax.methods.logits.kd import kd

def my_method(*, temperature=2.0): return kd(temperature=temperature)
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
  """The folder of `my_project`, from which anything can be imported; nothing is trusted yet."""
  monkeypatch.setattr(trust, 'TRUSTED', set())
  monkeypatch.syspath_prepend(tmp_path)
  folder = tmp_path / 'my_project'
  folder.mkdir()
  (folder / '__init__.py').write_text('import builtins\nbuiltins.imported = True\n')
  (folder / 'my_model.py').write_text(MODEL)
  (folder / 'my_method.py').write_text(METHOD)
  yield folder
  for name in [name for name in sys.modules if name.split('.')[0] == 'my_project']:
    del sys.modules[name]


@pytest.fixture
def workdir(tmp_path):
  """`workdir(model, task)`: as somebody hands it over."""

  def make(model, task='classification', **more):
    folder = tmp_path / 'w'
    (folder / 'student').mkdir(parents=True, exist_ok=True)
    record = {'model': model, 'fill': {}, 'example': {}, 'seeds': [0], 'classes': [], 'rate': 0}
    (folder / 'student' / 'stage.json').write_text(json.dumps(record | more))
    own = {'inputs': {}, 'dtype': 'float32'}
    config = {'task': task if isinstance(task, dict) else {'name': task}, 'student': own, 'data': {}}
    (folder / 'config.json').write_text(json.dumps(config))
    return folder

  return make


@pytest.mark.parametrize(
  ('model', 'task'),
  [
    ({'model': 'distutils.spawn', 'cmd': ['touch', 'ran']}, 'classification'),
    ({'model': 'bag_of_words'}, {'name': 'distutils.spawn', 'cmd': ['touch', 'ran']}),
    ({'model': 'fusion', 'encoders': {'a': {'model': 'subprocess.call', 'args': ['touch', 'ran']}}}, 'x'),
    ({'model': 'fusion', 'encoders': [{'model': 'os.system', 'command': 'touch ran'}]}, 'x'),
    ({'model': 'my_project.my_model'}, 'classification'),
  ],
)
def test_a_workdir_runs_nothing(workdir, monkeypatch, tmp_path, model, task):
  monkeypatch.chdir(tmp_path)
  folder = workdir(model, task)
  name = next(iter(trust.named({'model': model, 'task': task})))
  with pytest.raises(KdjaxError, match=f'names code that is no part of kdjax, {name}: .* --trust={name}'):
    predict.load(folder)
  with pytest.raises(KdjaxError, match=f"'{name}' is no part of kdjax"):
    registry.make('models', name, {})
  assert not (tmp_path / 'ran').exists() and not hasattr(__builtins__, 'imported')
  assert not [m for m in sys.modules if m.startswith('my_project')]


def test_what_a_person_trusts_is_run(workdir, capsys, project):
  assert trust.digest('my_project.my_model') and 'my_project' not in sys.modules
  recorded = trust.digests({'model': 'my_project.my_model'})
  folder = workdir({'model': 'my_project.my_model'}, modules=recorded)
  with pytest.raises(KdjaxError, match='needs the option'):  # past the question
    predict.load(folder, trusted=['my_project.my_model'])
  assert not capsys.readouterr().out
  assert registry.entry('models', 'my_project.my_model').__name__ == 'MyModel'
  (project / 'my_model.py').write_text(MODEL + '# other\n')
  with pytest.raises(KdjaxError, match=r'my_model \(its source differs from the recorded one\)'):
    predict.load(folder)
  with pytest.raises(KdjaxError, match='needs the option'):
    predict.load(folder, trusted=['my_project.my_model'])
  assert 'differs from the recorded one' in capsys.readouterr().out


def test_only_the_kinds_own_type_is_called(project):
  trust.trust(['my_project.my_model', 'my_project.my_method', 'my_project.spawn', 'distutils.spawn'])
  (project / 'spawn.py').write_text('from distutils.spawn import spawn\n')
  for kind, name in (
    ('methods', 'my_project.spawn'),
    ('models', 'distutils.spawn'),
    ('models', 'my_project.my_method'),
  ):
    with pytest.raises(KdjaxError, match='defines no'):
      registry.entry(kind, name)
  with pytest.raises(KdjaxError, match="the task 'my_project.my_method' returns a Method, and no Task"):
    registry.make('tasks', 'my_project.my_method', {})
  with pytest.raises(KdjaxError, match='named by a text, and not by a list'):
    registry.module('models', ['distutils.spawn'])
  with pytest.raises(KdjaxError, match="unknown converter: '../evil'"):
    registry.module('pretrained', '../evil')


def test_every_entry_is_of_its_kind():
  for kind in ('methods', 'models', 'tasks', 'data', 'generators'):
    assert all(registry.entry(kind, name) for name in registry.names(kind))


def test_names_of_a_config():
  config = {
    'data': {'name': 'my.data', 'path': 'a.csv', 'options': {'name': 'no.data'}},
    'task': {'name': 'my.task'},
    'student': {'model': {'model': 'fusion', 'encoders': {'image': {'model': 'my.model'}}}},
    'methods': {'my.method': {}, 'mine': {'method': 'my.other', 'peer': {'model': 'my.peer'}}},
    'generator': {'scheme': 'my.scheme'},
    'cohort': {'a': {'methods': {'my.third': {}}}},
  }
  names = 'data method model other peer scheme task third'
  assert trust.named(config) == {f'my.{name}' for name in names.split()}
  deep = {}
  for _ in range(2000):
    deep = {'model': deep}
  with pytest.raises(KdjaxError, match='more than 64 dicts within each other'):
    trust.named(deep)
  assert trust.digest('no.such.module') == trust.digest('sys.no') == ''


def test_a_method_of_ones_own_in_a_recipe_and_on_the_command_line():
  """Both forms, as README writes them."""
  config = recipes.base('mine')
  config.methods = {'my_project.my_method': {'weight': 1.0}}
  config.cohort = {'a': {'methods': {'my_project.my_method': {'weight': 2.0}}}}
  lines = ('methods.my_project.my_method.temperature=3', 'methods.mine.method=my_project.my_method')
  plain = command_recipe.changed(config, [tuple(line.split('=')) for line in lines])
  assert plain['methods'] == {
    'my_project.my_method': {'weight': 1.0, 'temperature': 3},
    'mine': {'method': 'my_project.my_method'},
  }
  with pytest.raises(KdjaxError, match='is no part of kdjax'):
    build.method({'my_project.my_method': {'weight': 1.0}}, 10)
  commands.trusted(trust.named(plain))
  del plain['methods']['mine']
  assert isinstance(build.method(plain['methods'], 10), Method)
