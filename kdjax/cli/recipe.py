"""The recipe of the command line: loaded, completed, with the keys that the command sets."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from kdjax import recipes, settings
from kdjax.errors import KdjaxError
from kdjax.experiment import overrides
from kdjax.runtime.renamed_keys import renamed


def load(name: str | None, changes: Sequence[tuple[str, str]]) -> dict:
  """The recipe `name` as plain dicts, checked.

  Args:
    name: as `recipes.load` takes it.
    changes: (key, text) of each --config.KEY=TEXT.

  Raises:
    KdjaxError: if there is none, or it has a key or a value that it cannot have.
  """
  if not name:
    raise KdjaxError('which recipe? For instance --config=quickstart, or a file of your own.')
  return changed(recipes.load(name), changes)


def changed(config: ConfigDict, changes: Sequence[tuple[str, str]]) -> dict:
  """The config as plain dicts, with the defaults of what it leaves out and with the changes."""
  plain = config.to_dict()
  if renamed(plain) != plain:
    config = recipes.Recipe(renamed(plain))
  with config.unlocked(), config.ignore_type():
    _fill(config, settings.complete(plain))
    overrides.apply(config, changes)
  settings.check(completed := settings.complete(config.to_dict()))
  return completed


def _fill(config: recipes.Config, defaults: Mapping) -> None:
  """Adds what is missing, in place: a reference of one key to another stays one."""
  for key, value in defaults.items():
    if key not in config:
      config[key] = value
    elif isinstance(config[key], ConfigDict) and isinstance(value, Mapping):
      _fill(config[key], value)
