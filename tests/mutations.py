"""Recipes of configs/, and what a person or a slip of the hand may turn their values into."""

import copy
import importlib
import random
from pathlib import Path
from typing import Any

from kdjax import options, registry
from kdjax.training import optimizers

RECIPES = sorted(p.stem for p in Path('configs').glob('*.py') if p.stem != '__init__')
VALUES = (
  0,
  1,
  -1,
  2,
  3,
  7,
  16,
  10**9,
  2**31,
  10**400,
  0.0,
  0.5,
  -0.5,
  1.0,
  1.5,
  30.0,
  1e-30,
  1e-3,
  1e30,
  1e300,
)
VALUES += (
  float('nan'),
  float('inf'),
  float('-inf'),
  True,
  False,
  None,
  '',
  'x',
  'nan',
  '3',
  'logits',
  'embed',
)
VALUES += (
  'image',
  'a.b',
  '../x',
  'ünï\x1b[31m\n',
  'y' * 300,
  (),
  (0,),
  (1, 2),
  [3],
  ('image',),
  ('a', 1),
  {},
  {'a': 1},
)
VALUES += (
  {'model': 'mlp'},
  {'model': 'nothing'},
  {'model': 3},
  {1: 2},
  b'x',
  object,
  1j,
  'mlp',
  'resnet',
  'kd',
  'live',
)
VALUES += (
  'ema',
  'previous_epoch',
  'steps',
  'linear',
  'adamw',
  'sgd',
  'dot',
  'flip',
  'mixup',
  ('flip', 'crop'),
  'bfloat16',
  'best',
)


def leaves(tree: Any, path: tuple = ()) -> list[tuple]:
  """Paths of everything within a config, sections too."""
  result = [path] if path else []
  if isinstance(tree, dict):
    for key, value in tree.items():
      result += leaves(value, (*path, key))
  return result


def unset(config: dict) -> list[tuple]:
  """Paths of options that the recipe leaves at their defaults."""
  collected = []
  for stage in ('teacher', 'student'):
    own = config[stage]['train']['optimiser']
    collected += [(stage, 'train', 'optimiser', k) for k in optimizers.known_options(own['name'])]
    for path in [(), *leaves(config[stage]['model'])]:
      model = _at(config[stage]['model'], path)
      if isinstance(model, dict) and isinstance(model.get('model'), str):
        collected += [(stage, 'model', *path, k) for k in registry.options('models', model['model'])]
  for name, inputs in config['methods'].items():
    own = registry.options('methods', inputs.get('method', name))
    collected += [
      ('methods', name, k) for k in (*own, 'weight', 'schedule', 'start', 'stop', 'warmup', 'method')
    ]
  return collected + [('task', k) for k in registry.options('tasks', config['task']['name'])]


def _at(tree, path):
  for key in path:
    tree = tree[key]
  return tree


def near(value: Any, rng: random.Random) -> Any:
  """Another value of the same type."""
  if isinstance(value, bool):
    return not value
  if isinstance(value, int | float):
    return rng.choice(
      (value * 2, value + 1, value - 1, -value, value / 2, value // 2, value * 10, value * 100, 0)
    )
  if isinstance(value, list | tuple) and value:
    return rng.choice((value * 2, value[::-1], value[:1], value[1:], tuple(near(v, rng) for v in value)))
  return rng.choice(VALUES)


def mutated(config: dict, rng: random.Random) -> tuple[dict, str]:
  """A copy with one to three values changed, taken out or added, and what was done."""
  recipe_, messages = copy.deepcopy(config), []
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    *above, last = rng.choice(leaves(recipe_) if rng.random() < 0.6 else unset(config))
    try:
      tree = _at(recipe_, above)
    except (KeyError, TypeError):  # an earlier change took it out
      continue
    if not isinstance(tree, dict):
      continue
    what, value = rng.random(), rng.choice(VALUES) if rng.random() < 0.5 else near(tree.get(last), rng)
    if what < 0.05:
      tree.pop(last, None)
      messages.append(f'{".".join(map(str, (*above, last)))} taken out')
    elif what < 0.1:
      tree[f'{last}x'] = value
      messages.append(f'{".".join(map(str, (*above, last)))}x={options.shown(value)}')
    else:
      tree[last] = copy.deepcopy(value)
      messages.append(f'{".".join(map(str, (*above, last)))}={options.shown(value)}')
  return recipe_, ', '.join(messages)


def recipe(name: str) -> dict:
  return importlib.import_module(f'configs.{name}').get_config('smoke=1').to_dict()
