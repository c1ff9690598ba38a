"""The members of a cohort, and the config keys that they may differ in."""

from collections.abc import Mapping

from kdjax.errors import KdjaxError, unknown
from kdjax.runtime.config_tree import flat

TRAINED = ('teacher', 'baseline', 'ceiling', 'student')
# What the members of a cohort may differ in: the batches and the teacher are shared.
OWN = ('methods', 'task_weight', 'student.model', 'student.inputs', 'student.dtype', 'student.drop')
OWN += ('student.train.optimiser', 'student.train.ema', 'teacher.source', 'on_policy')


def member_config(config: Mapping, name: str, changes: Mapping) -> dict:
  """The config of one member of a cohort: the recipe's, with `methods` replaced and other keys changed.

  Raises:
    KdjaxError: for a key that the members have to share.
  """
  reserved = (*TRAINED, 'cohort', 'baselines', 'ceilings', 'store')
  if name in reserved or not name.replace('-', '_').replace('.', '_').isidentifier():
    raise KdjaxError(f'cohort.{name} names a folder: choose another name.')
  if not isinstance(changes, Mapping):
    raise KdjaxError(f'cohort.{name} is {changes!r}; a member is a dict: methods, and other changes.')
  for key in flat({'methods': changes.get('methods'), **changes}):
    if key != 'methods' and not any(key == prefix or key.startswith(f'{prefix}.') for prefix in OWN):
      raise unknown(f'key of a member in cohort.{name}', key, OWN)
  merged = _merged(config, changes) | {'cohort': {}, 'name': f'{config["name"]}/{name}'}
  return merged | {'methods': changes.get('methods', config['methods'])}


def _merged(tree, changes):
  """`tree` with the changes; a dict that names a model replaces one, others are merged."""
  merged = dict(tree)
  for key, value in changes.items():
    both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
    replaces = both and isinstance(value.get('model'), str) and isinstance(merged[key].get('model', ''), str)
    merged[key] = _merged(merged[key], value) if both and not replaces else value
  return merged
