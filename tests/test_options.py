"""Every key and every option has a type and a range, and whatever is wrong with a config is one line."""

import inspect
from pathlib import Path
from typing import Any

import optax
import pytest

from kdjax import options, recipes, registry, settings
from kdjax.errors import KdjaxError
from kdjax.experiment import validate_config
from kdjax.paper_tables.table import is_table, load
from kdjax.training import optimizers
from kdjax.training.schemes import dot

KINDS = ('methods', 'models', 'tasks', 'data', 'generators')
WRONG = (float('nan'), -float('inf'), 10**400, -1e300, object(), {3: 3})


def refused(value, annotation):
  with pytest.raises(KdjaxError) as caught:
    options.check(value, annotation, 'key')
  assert '\n' not in str(caught.value) and 'key' in str(caught.value) and len(str(caught.value)) < 2000
  return str(caught.value)


def ranged(schema) -> bool:
  """Whether every number and every string of a JSON schema has a range, or is one of several."""
  if isinstance(schema, list):
    return all(map(ranged, schema))
  if not isinstance(schema, dict):
    return True
  if schema.get('type') in ('number', 'integer') and not schema.keys() & {'const', 'enum'}:
    return bool(schema.keys() & {'minimum', 'exclusiveMinimum'})
  return all(map(ranged, schema.values()))


@pytest.mark.parametrize('kind', KINDS)
def test_every_option_has_a_type_and_a_range_that_its_default_is_in(kind):
  for name in registry.names(kind):
    for option, p in options.parameters(registry.entry(kind, name)).items():
      where = f'{kind} {name}.{option}'
      assert p.annotation not in (inspect.Parameter.empty, Any, tuple, list, dict), where
      assert ranged(options.adapter(p.annotation).json_schema()), where
      assert options.describe(p.annotation) != 'anything', where
      if p.default is not inspect.Parameter.empty:
        options.check(p.default, p.annotation, where)
      for value in WRONG:
        refused(value, p.annotation)


def test_every_key_of_a_recipe_has_a_type_a_range_and_an_explanation():
  for key, annotation in settings.leaves():
    assert ranged(options.adapter(annotation).json_schema()) and settings.meaning(annotation), key
    for value in WRONG:
      refused(value, annotation)
  settings.check(recipes.base('x').to_dict())


@pytest.mark.parametrize('name', optimizers.OPTIMISERS)
def test_every_option_of_an_optimiser_has_a_range(name):
  known = optimizers.known_options(name)
  make = dot.dot if name == 'dot' else getattr(optax, name)
  ours = {'learning_rate', 'weight_decay_rate', 'decay_offset'}  # `lr`; what weight_decay does; of a restart
  for option in inspect.signature(make).parameters:
    assert option in known or option in ours or 'mask' in option or 'dtype' in option, option
  for value in (float('nan'), -1, 'x', None, True):
    with pytest.raises(KdjaxError, match='the optimiser.lr is'):
      optimizers.optimiser({'name': name, 'lr': value}, 10)


@pytest.mark.parametrize(
  ('value', 'annotation', 'said'),
  [
    (0, options.Temperature, 'key is 0; it has to be a number from 0.001 to 10000.'),
    (True, options.Share, 'key is True; it has to be a number from 0 to 1.'),
    ('1', options.Count, "key is '1'; it has to be a whole number from 1 to 2,147,483,647."),
    (2.0, options.Count, 'key is 2.0; it has to be a whole number from 1 to 2,147,483,647.'),
    (1, options.Rate, 'key is 1; it has to be a number from 0 to below 1.'),
    ((), options.Taps, 'key is (); it has to be a list, not empty, of strings.'),
    ({'image': 2}, settings.Rates, 'key.image is 2; it has to be a number from 0 to below 1.'),
    ('lst', settings.fields(settings.Recipe)['select'], "unknown key: 'lst'; did you mean 'last'?"),
  ],
)
def test_what_is_said(value, annotation, said):
  assert refused(value, annotation).startswith(said)


@pytest.mark.parametrize(
  ('value', 'annotation'),
  [
    (3, options.Share | options.Temperature),
    ([1, 2], options.Means),
    (0, settings.Sampling),
    (5, options.Eps | int),
  ],
)
def test_what_is_accepted(value, annotation):
  assert options.check(value, annotation, 'key') == options.tuples(value)


TABLES = sorted(p.stem for p in Path('configs/tables').glob('*.py') if is_table(p))


@pytest.mark.parametrize('name', TABLES)
def test_every_experiment_of_a_table_is_in_range(name):
  for scale in ('cpu', 'paper'):
    for config in load(f'configs/tables/{name}.py', scale).experiments.values():
      validate_config.recipe(config.to_dict())
