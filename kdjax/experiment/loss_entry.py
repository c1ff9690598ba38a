"""An entry of `config.methods`: the weight and schedule of a loss, and the options of its method."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdjax import options as options_
from kdjax import registry
from kdjax.errors import KdjaxError

SCHEDULE = ('schedule', 'start', 'stop', 'warmup')
KEYS = ('method', 'weight', *SCHEDULE, 'options')
# Terms that a step records beside the methods' own.
RESERVED = ('task', 'grad_norm', 'total')


class Entry(NamedTuple):
  """A loss of a recipe.

  Attributes:
    method: the name of its method.
    weight: what it is multiplied by.
    schedule: the options of `schedules.weight_schedule` that are set.
    options: of the method.
  """

  method: str
  weight: float
  schedule: Mapping[str, Any]
  options: Mapping[str, Any]


def read(name: str, entry: Mapping[str, Any]) -> Entry:
  """The entry called `name`.

  The keys of an entry are `KEYS`; all others are options of its method, which may also lie in a dict of
  their own, 'options'. There, and there alone, an option may be called as one of `KEYS`, or as it was
  called before (`RENAMED` of the method's module).

  Raises:
    KdjaxError: for a name that is reserved, a key that could be either, an option that is set twice, or
      a method with no weight of its own where none is set.
  """
  if name in RESERVED or '/' in name:
    raise KdjaxError(
      f'methods.{name} is called as another term of the loss: choose another name, and say '
      f"'method': 'kd', for example, in it."
    )
  keys = {k: entry[k] for k in KEYS if k in entry}
  options = {k: v for k, v in entry.items() if k not in KEYS}
  method = options_.check(keys.pop('method', name), options_.Name, f'methods.{name}.method')
  module, known = registry.module('methods', method), registry.options('methods', method)
  nested = keys.pop('options', None)
  if nested is not None and not isinstance(nested, Mapping):
    raise KdjaxError(f'methods.{name}.options is {nested!r}; it is a dict: option of {method!r} -> value.')
  for key in KEYS:
    if key in entry and key in known and nested is None:
      raise KdjaxError(
        f'methods.{name}.{key} could be the {key} of the loss or the option of {method!r}: write '
        f"'options': {{{key!r}: ...}} for the option, or 'options': {{}} beside it for the loss."
      )
  for key, value in (nested or {}).items():
    key = getattr(module, 'RENAMED', {}).get(key, key)
    if key in options:
      raise KdjaxError(f'methods.{name} sets {key!r} twice: leave it out there, or in its options.')
    options[key] = value
  weight = keys.pop('weight', None)
  if weight is None:
    weight = getattr(module, 'WEIGHT', None)
    if weight is None:
      raise KdjaxError(f'methods.{name} needs a weight: {method!r} has no WEIGHT of its own.')
  return Entry(method, weight, keys, options)
