"""Recipes: the helpers that they are written with, and how their files are found and loaded.

A recipe is a file with `get_config(arg)`, which returns a ConfigDict or a dict of keys of
`kdjax/settings.py`; those that it leaves out have their defaults. The argument is what follows the colon in
`--config=configs/quickstart.py:smoke=1,seeds=5`. The recipes of `configs/` come with the package.
"""

import contextlib
import dataclasses
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from kdjax import settings
from kdjax.errors import KdjaxError, unknown
from kdjax.runtime import files

Config = Any  # a ConfigDict, whose attributes no type checker knows
SCALES = ('cpu', 'gpu')
_INSTALLED = Path(__file__).parent / 'configs'
FOLDER = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parents[1] / 'configs'  # in a checkout
TABLES = 'configs/tables'


def find(name: str, folder: str = 'configs') -> Path:
  """The file of a recipe or a table: one of this name, with or without `.py`, else the packaged one.

  Args:
    name: a path, or a packaged recipe as 'quickstart', 'quickstart.py' or 'configs/quickstart.py'.
    folder: 'configs' or `TABLES`.

  Raises:
    KdjaxError: if there is neither.
  """
  for here in (name, f'{name}.py'):
    if files.user_path(here).is_file():
      return Path(here).expanduser()
  short, packaged = Path(name), FOLDER.parent / folder
  found = packaged / f'{short.stem}.py'
  if short.parent in (Path(), Path(folder)) and short.suffix in ('', '.py') and found.is_file():
    return found
  kind, get = ('table', 'def get_table(') if folder == TABLES else ('recipe', 'def get_config(')
  names = [p.stem for p in packaged.glob('*.py') if get in p.read_text(encoding='utf-8')]
  choices = [f'{folder}/{stem}.py' for stem in names] if '/' in name else names
  raise unknown(f'{kind}, neither a file here nor one of kdjax', name, choices)


def module(path: Path) -> ModuleType:
  """Runs the file of a recipe or a table.

  `from . import other` in it finds files beside it, and those of the package. A mistake in it is one line.

  Raises:
    KdjaxError: for whatever goes wrong in it.
  """
  folder = files.user_path(path).parent
  package = ModuleType(f'kdjax_recipes_{files.fingerprint(str(folder))}')
  package.__path__ = list(dict.fromkeys(map(str, (folder, FOLDER, FOLDER / 'tables'))))
  sys.modules[package.__name__] = package
  name = f'{package.__name__}.{path.stem}'
  loader = SourceFileLoader(name, str(path))
  spec = importlib.util.spec_from_loader(name, loader)
  assert spec is not None  # there is a loader
  loaded = sys.modules[name] = importlib.util.module_from_spec(spec)
  with in_file(path):
    loader.exec_module(loaded)
  return loaded


@contextlib.contextmanager
def in_file(path: Path) -> Iterator[None]:
  """Turns an exception of a user's file into a KdjaxError that says the line."""
  try:
    yield
  except KdjaxError:
    raise
  except Exception as e:
    frames = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == str(path)]
    line = e.lineno if isinstance(e, SyntaxError) and e.filename == str(path) else (frames or [None])[-1]
    where = f'{path}, line {line}' if line else path
    message = e.msg if isinstance(e, SyntaxError) else files.first_line(e)
    raise KdjaxError(f'{where}: {type(e).__name__}: {message}') from e


def load(name: str) -> ConfigDict:
  """The config of a recipe.

  Args:
    name: as `find` takes it, with an argument after a colon where the recipe takes one: 'quickstart:smoke=1'.

  Raises:
    KdjaxError: if there is no such recipe, or it returns something else.
  """
  name, colon, arg = name.partition(':')
  path = find(name)
  get_config = getattr(module(path), 'get_config', None)
  if not callable(get_config):
    raise KdjaxError(f'{path} has no get_config(): a recipe defines one, which returns its config.')
  if colon and not inspect.signature(get_config).parameters:
    raise KdjaxError(f'the recipe {path} takes no argument, and is given {arg!r}: leave :{arg} out.')
  with in_file(path):
    config = get_config(arg) if colon else get_config()
    if not isinstance(config, ConfigDict | Mapping):
      raise KdjaxError(f'get_config() of {path} returns a {type(config).__name__}; it has to be a dict.')
    return config if isinstance(config, ConfigDict) else Recipe(config)


def parse_arg(arg: str | None, **defaults):
  """`'smoke=1,seeds=5'` as a ConfigDict with the keys and types of `defaults`.

  Raises:
    KdjaxError: for a key that the recipe does not know, or a value of another type.
  """
  defaults = {'smoke': False} | defaults
  values = dict(defaults)
  for item in (arg or '').split(',') if arg else ():
    key, _, text = item.partition('=')
    if key not in defaults:
      raise unknown('argument of the recipe', key, defaults)
    kind = type(defaults[key])
    try:
      values[key] = text in ('', '1', 'true', 'True') if kind is bool else kind(text)
    except ValueError as e:
      raise KdjaxError(f'{key}={text!r} is not a {kind.__name__}.') from e
  return ConfigDict(values)


def training(steps: int, batch_size: int, lr: float, **optimiser) -> ConfigDict:
  """The config of a training, `settings.Train`: AdamW with a warm-up and a cosine schedule."""
  train = dataclasses.asdict(settings.Train(steps=steps, batch_size=batch_size))
  train['optimiser'] |= {'lr': lr, **optimiser}
  return ConfigDict(train)


def model(name: str, **attributes) -> dict:
  """A model by the name of its file, with the attributes of its module."""
  return {'model': name, **attributes}


class Recipe(ConfigDict):
  """A ConfigDict whose keys may have dots, for `methods`: 'my_project.my_method'."""

  def __init__(self, values=None, type_safe: bool = True, **_):
    super().__init__(values, type_safe, allow_dotted_keys=True)


def base(name: str) -> ConfigDict:
  """The keys that all recipes share, with their defaults: `kdjax/settings.py` says what each means."""
  return Recipe(dataclasses.asdict(settings.Recipe(name)))


def full(arg: Config) -> bool:
  """Whether the recipe has its full size, `scale=gpu`.

  Raises:
    KdjaxError: for an unknown scale.
  """
  if arg.scale not in SCALES:
    raise unknown('scale', arg.scale, SCALES)
  return arg.scale == 'gpu'


def finish(config: Config, arg: Config, longer: int, larger: int) -> Config:
  """The recipe; with `smoke=1` a few steps, with `scale=gpu` `longer` times the steps and `larger` times the
  batch size."""
  for stage in ('teacher', 'student') if full(arg) else ():
    config[stage].train.steps *= longer
    config[stage].train.batch_size *= larger
  return smoke(config) if arg.smoke else config


# Of these any depth can be trained; published sizes have the one of their name.
DEEP = ('gpt2', 'llama', 'mult', 'transformer')


def shallow(model: Config) -> Config:
  """The model and those inside it with one block each, which is what compiling takes its time for.

  A model that starts from weights has the depth of these.
  """
  if model.get('init'):
    return model
  if model.get('model') in DEEP and 'depth' in model:
    model.depth = 1
  elif model.get('model') in ('resnet', 'mel_cnn') and 'blocks' in model:
    model.blocks = (0,) * (len(model.blocks) - 1) + (1,)
  for part in model.values():
    if isinstance(part, ConfigDict):
      shallow(part)
  return model


def smoke(config: Config) -> Config:
  """The same recipe in seconds: a few steps of a few examples, with shallow models."""
  for stage in ('teacher', 'student'):
    config[stage].train.update(steps=4, batch_size=16)
    shallow(config[stage].model)
  config.seeds = 2
  config.data.limit.update(train=96, validation=32, test=48)
  config.run.update(eval_every=4, log_every=2, save_every=2, eval_batch=32)
  return config
