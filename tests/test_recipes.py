"""Recipes and tables are found and loaded from any folder; what pip installs is what the tests need."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from kdjax import recipes, settings
from kdjax.cli import commands, recipe
from kdjax.errors import KdjaxError
from kdjax.paper_tables import table
from kdjax.runtime import trust

ROOT = Path(__file__).parents[1]
MINE = """
from . import quickstart, sizes

def get_config(arg=None):
  config = quickstart.get_config(arg)
  config.student.train.steps = sizes.STEPS
  return config
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
  """The current folder, which holds nothing."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize('name', ['quickstart', 'quickstart.py', 'configs/quickstart.py'])
def test_a_recipe_is_packaged_unless_there_is_a_file(elsewhere, name):
  assert recipes.find(name) == recipes.FOLDER / 'quickstart.py'
  assert recipes.load(f'{name}:smoke=1').student.train.steps == 4
  path = (elsewhere / name).with_suffix('.py')
  path.parent.mkdir(exist_ok=True)
  path.write_text('def get_config():\n  return {"name": "here"}\n')
  assert recipes.load(name).name == 'here'


def test_a_folder_of_that_name_is_no_recipe(elsewhere):
  (elsewhere / 'quickstart').mkdir()
  assert recipes.find('quickstart') == recipes.FOLDER / 'quickstart.py'


def test_every_recipe_and_table_loads_from_elsewhere():
  for path in sorted(recipes.FOLDER.glob('[!_]*.py')):
    recipe.load(path.stem, ())
  for path in sorted((recipes.FOLDER / 'tables').glob('cifar*.py')):  # these import each other
    assert table.load(path.stem, 'smoke').name == path.stem
  assert table.load('configs/tables/mfh_gaussian.py', 'smoke').name == 'mfh_gaussian'


def test_files_beside_a_recipe_and_packaged_ones_are_imported(elsewhere):
  (elsewhere / 'sizes.py').write_text('STEPS = 7\n')
  (elsewhere / 'mine.py').write_text(MINE)
  assert recipes.load('mine.py').student.train.steps == 7


def test_what_a_recipe_leaves_out_has_its_default(elsewhere):
  text = 'def get_config():\n  return {"name": "mine", "data": {"name": "easy_vqa", "limit": {"train": 9}}, '
  (elsewhere / 'mine.py').write_text(text + '"student": {"train": {"steps": 3}}}\n')
  changes = [('seeds', '2'), ('data.limit.test', '5'), ('student.train.optimiser.lr', '0.5')]
  config = recipe.load('mine.py', changes)
  wanted = settings.complete({'name': 'mine'})
  wanted['seeds'] = 2
  wanted['data'] |= {'name': 'easy_vqa', 'limit': {'train': 9, 'validation': 0, 'test': 5}}
  wanted['student']['train']['steps'] = 3
  wanted['student']['train']['optimiser'] |= {'lr': 0.5}
  assert config == wanted


def test_a_reference_follows_the_command_line():
  config = ConfigDict({'name': 'mine', 'seed': 1})
  config.seeds = config.get_ref('seed')
  assert recipe.changed(config, [('seed', '3')])['seeds'] == 3


def test_old_names_of_keys_are_read():
  config = recipe.changed(ConfigDict({'name': 'mine', 'run': {'together': 4}}), [('seeds', '2')])
  assert config['run']['members_per_program'] == 4 and 'together' not in config['run']


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('x = 1', r'mine.py has no get_config\(\): a recipe defines one'),
    ('def get_config():\n  return 3', r'get_config\(\) of mine.py returns a int; it has to be a dict'),
    ('\ndef get_config(:', 'mine.py, line 2: SyntaxError: '),
    ('def get_config():\n\n  return {"name": nme}', "mine.py, line 3: NameError: name 'nme' is not defined"),
    ('import not_installed_anywhere', "mine.py, line 1: ModuleNotFoundError: No module named 'not_inst"),
    ('def get_config():\n  return {"nam": "x"}', "unknown key of the recipe: 'nam'.*did you mean 'name'"),
    ('def get_config():\n  return {}', 'the recipe has no name: set it'),
  ],
)
def test_a_mistake_in_a_recipe_is_one_line(elsewhere, text, said):
  (elsewhere / 'mine.py').write_text(text + '\n')
  with pytest.raises(KdjaxError, match=said) as raised:
    recipe.load('mine.py', ())
  assert '\n' not in str(raised.value)


def test_what_is_not_there_and_arguments_that_are_not_taken(elsewhere):
  with pytest.raises(KdjaxError, match="one of kdjax: 'quikstart'; did you mean 'quickstart'"):
    recipe.load('quikstart', ())
  with pytest.raises(KdjaxError, match='unknown recipe, .*configs/quickstart.py'):
    recipe.load('configs/quikstart.py', ())
  with pytest.raises(KdjaxError, match="unknown table, .*: 'quickstart'"):
    table.load('quickstart', 'smoke')
  with pytest.raises(KdjaxError, match='repdistiller.py is no table'):
    table.load('repdistiller', 'smoke')
  (elsewhere / 'mine.py').write_text('def get_config():\n  return {"name": "mine"}\n')
  with pytest.raises(KdjaxError, match="mine.py takes no argument, and is given 'smoke=1'"):
    recipe.load('mine.py:smoke=1', ())


def test_modules_of_the_current_folder_are_found_once_they_are_named(elsewhere, monkeypatch):
  monkeypatch.setattr(trust, 'TRUSTED', set())
  monkeypatch.setattr(sys, 'path', list(sys.path))
  assert commands.trusted(['kd']) == [] and str(elsewhere) not in sys.path
  commands.trusted(['my_project.my_method'])
  assert sys.path[-1] == str(elsewhere) and {'my_project.my_method'} == trust.TRUSTED


def requirements(lines):
  """Package -> range."""
  entries = (line.split('#')[0].strip() for line in lines)
  return dict(re.fullmatch(r'([\w.-]+)(.*)', entry).groups() for entry in entries if entry)


def test_the_file_of_requirements_agrees_with_the_package():
  """The file is what a developer has: what the package needs, and the tools of `dev`."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
  needed, dev = (requirements(e) for e in (project['dependencies'], project['optional-dependencies']['dev']))
  file = requirements((ROOT / 'requirements-cpu.txt').read_text(encoding='utf-8').splitlines())
  assert file == needed | dev and not needed.keys() & dev.keys()
  language = requirements(project['optional-dependencies']['language'])
  assert language.items() <= dev.items()


def test_the_package_has_every_folder_and_the_recipes(monkeypatch):
  setuptools = pytest.importorskip('setuptools')
  told = {}
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(setuptools, 'setup', lambda **how: told.update(how))
  runpy.run_path('setup.py')
  places = {name: told['package_dir'].get(name) for name in told['packages']}
  assert places['kdjax.configs'] == 'configs' and (ROOT / 'configs' / 'tables' / '__init__.py').exists()
  folders = {'.'.join(p.parent.relative_to(ROOT).parts) for p in (ROOT / 'kdjax').rglob('*.py')}
  assert {*places} - folders == {'kdjax.configs', 'kdjax.configs.tables'} and folders <= {*places}
  data = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['tool']['setuptools']
  packed = {path for pattern in data['package-data']['kdjax'] for path in (ROOT / 'kdjax').glob(pattern)}
  assert packed == {p for end in ('html', 'js') for p in (ROOT / 'kdjax').rglob(f'*.{end}')}
