"""From a config to models, methods and tasks; the only place that looks a name up."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from kdjax import options, registry
from kdjax.errors import KdjaxError
from kdjax.experiment import loss_entry
from kdjax.experiment.load import Data
from kdjax.input import augment, pipeline, tokenizer
from kdjax.methods import combine
from kdjax.nn.functional import functions
from kdjax.pretrained import initialize
from kdjax.training import optimizers, schedules
from kdjax.training.schemes import data_free, dot
from kdjax.types import Method, Model, Task


def task(config: Mapping) -> Task:
  given = dict(config)
  return registry.make('tasks', given.pop('name'), given, 'task')


def module(config: Mapping, fill: Mapping[str, Any]) -> Any:
  """The Linen module of a config; dicts with a 'model' become modules themselves.

  Args:
    config: 'model' and the module's attributes.
    fill: attributes that the data decide, for modules that have them and were not given them.
  """
  if not isinstance(config, Mapping) or 'model' not in config:
    raise KdjaxError(f"a model is a dict, {{'model': its name, ...}}, and not {config!r}.")
  given = {k: v for k, v in config.items() if k not in initialize.KEYS}
  name = given.pop('model')
  known = registry.options('models', name)
  within = fill if initialize.whole(config) else {k: v for k, v in fill.items() if k != 'num_classes'}

  def inner(value):
    if not isinstance(value, Mapping):
      return value
    if 'model' in value:
      return module(value, within)
    return {k: inner(v) for k, v in value.items()}

  given = {k: inner(v) for k, v in given.items()}
  given |= {k: v for k, v in fill.items() if k in known and k not in given}
  made = registry.make('models', name, given)
  return initialize.Frozen(made) if config.get('frozen') else made


def fill(found: Data, wanted: Task) -> dict[str, int]:
  """The attributes of modules that the data decide."""
  classes = wanted.outputs(found.dataset).get('logits')
  size = 0 if found.tokenizer is None else tokenizer.size(found.tokenizer)
  words = {'vocab_size': size, 'tokens': size} if size else {}
  return words | ({'num_classes': classes} if classes else {})


def model(config: Mapping, found: Data, wanted: Task) -> Model:
  """A Model of `config['model']`, `config['inputs']`, `config['dtype']` and `config['drop']`."""
  net, still = module(config['model'], fill(found, wanted)), initialize.frozen(config['model'])
  return functions(net, config['inputs'], config['dtype'], config['drop'], still)


def method(
  config: Mapping, steps: int, peer: Callable | None = None, examples: Callable[[], int] | None = None
) -> Method:
  """All losses of `config.methods`, combined: name -> weight, schedule, taps, options.

  Args:
    config: the dict of the recipe.
    steps: of the whole training.
    peer: makes a Model of the dict of one, for methods that train models of their own.
    examples: gives how many training examples there are, for the option that a method calls `EXAMPLES`.

  Raises:
    KdjaxError: for what is wrong with an entry.
  """
  made = {}
  if not isinstance(config, Mapping) or not all(isinstance(v, Mapping) for v in config.values()):
    raise KdjaxError(f'methods is {config!r}; it is a dict: name -> a dict of weight, taps and options.')

  def option(value: Any) -> Any:
    if not isinstance(value, Mapping):
      return value
    if 'model' not in value:
      return {k: option(v) for k, v in value.items()}
    assert peer is not None, 'an option that is a model needs `peer`'
    return peer(value)

  for name, given in config.items():
    entry = loss_entry.read(name, given)
    options.check(entry.weight, options.Weight, f'methods.{name}.weight')
    own = options.check_all(schedules.weight_schedule, entry.schedule, f'methods.{name}')
    given = {k: option(v) for k, v in entry.options.items()}
    counts = getattr(registry.module('methods', entry.method), 'EXAMPLES', None)
    if examples and counts and given.get(counts) is None:
      given[counts] = examples()
    method_ = registry.make('methods', entry.method, given, f'methods.{name}')
    if examples and counts and given[counts] < examples():
      raise KdjaxError(
        f"methods.{name}.{counts} is {given[counts]}, and the largest 'id' of the training data is "
        f'{examples() - 1}: set it to {examples()}, or leave it out.'
      )
    made[name] = (entry.weight, method_, schedules.weight_schedule(steps, **own))
  return combine(made)


def image_generator(config: Mapping, found: Data, steps: int) -> data_free.ImageGenerator:
  """What `config.generator` makes images with: 'scheme', 'model', 'optimiser', and the scheme's options."""
  given = dict(config)
  if missing := {'scheme', 'model', 'optimiser'} - given.keys():
    raise KdjaxError(f'generator has no {sorted(missing)[0]!r}: it needs a scheme, a model and an optimiser.')
  scheme, net, optimiser = (given.pop(k) for k in ('scheme', 'model', 'optimiser'))
  batch = next(pipeline.eval_batches(found.train, jax.process_count()))
  if 'image' not in batch:
    raise KdjaxError(f'a generator makes images, and the data have {", ".join(sorted(batch))}.')
  *size, channels = batch['image'].shape[1:]
  net = module(net, {'size': tuple(size), 'channels': channels})
  if not hasattr(net, 'noise'):
    raise KdjaxError("generator.model makes no images of noise: choose {'model': 'generator', ...}.")
  loss, tx = registry.make('generators', scheme, given), optimizers.optimiser(optimiser, steps)
  if isinstance(tx, dot.Dot):
    raise KdjaxError(
      "the optimiser 'dot' takes a gradient of distillation: choose another in generator.optimiser."
    )
  return data_free.ImageGenerator(functions(net, {}), net.noise, loss, tx)


def make_augment(config: Mapping, seed: int, views: Mapping = {}) -> Callable:
  """What augments the batches of a training, `config` that of its 'train', and adds views of them."""
  return augment.make_augment(tuple(config['augment']), seed, {k: tuple(v) for k, v in views.items()})
