"""Builds models, methods and tasks from their configs, whose names it looks up in the registry."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from kdjax import options, registry
from kdjax.errors import KdjaxError
from kdjax.experiment import loss_entry
from kdjax.experiment.load import Data
from kdjax.input import augment, pipeline, tokenizer
from kdjax.nn import wrappers
from kdjax.nn.functional import functions
from kdjax.pretrained import initialize
from kdjax.training import optimizers, quantization_aware, schedules
from kdjax.training.loss_weights import combine
from kdjax.training.schemes import data_free, dot
from kdjax.types import Method, Model, Task


def task(config: Mapping) -> Task:
  task_options = dict(config)
  return registry.make('tasks', task_options.pop('name'), task_options, 'task')


def module(config: Mapping, fill: Mapping[str, Any]) -> Any:
  """The Linen module of a config; dicts with a 'model' become modules themselves.

  Args:
    config: 'model' and the module's attributes.
    fill: attributes that the data decide, for modules that have them and whose config leaves them out.
  """
  if not isinstance(config, Mapping) or 'model' not in config:
    raise KdjaxError(f"a model is a dict, {{'model': its name, ...}}, and not {config!r}.")
  attributes = {k: v for k, v in config.items() if k not in initialize.KEYS}
  name = attributes.pop('model')
  known = registry.options('models', name)
  within = fill if initialize.whole(config) else {k: v for k, v in fill.items() if k != 'num_classes'}

  def inner(value):
    if not isinstance(value, Mapping):
      return value
    if 'model' in value:
      return module(value, within)
    return {k: inner(v) for k, v in value.items()}

  attributes = {k: inner(v) for k, v in attributes.items()}
  attributes |= {k: v for k, v in fill.items() if k in known and k not in attributes}
  built = registry.make('models', name, attributes)
  return initialize.Frozen(built) if config.get('frozen') and wrappers.is_own(built) else built


def fill(data: Data, task: Task) -> dict[str, int]:
  """The attributes of modules that the data decide."""
  classes = task.outputs(data.dataset).get('logits')
  size = 0 if data.tokenizer is None else tokenizer.size(data.tokenizer)
  vocabulary = {'vocab_size': size, 'tokens': size} if size else {}
  return vocabulary | ({'num_classes': classes} if classes else {})


def model(config: Mapping, data: Data, task: Task, capture: bool = False) -> Model:
  """A Model of `config['model']`, `config['inputs']`, `config['dtype']` and `config['drop']`.

  With `capture` the outputs and the weights of the modules within it are taps too, by their paths.
  """
  net, frozen = module(config['model'], fill(data, task)), initialize.frozen(config['model'])
  base = functions(net, config['inputs'], config['dtype'], config['drop'], frozen, data.ranges, capture)
  return quantization_aware.model(base, **rounding(config))


def rounding(config: Mapping) -> dict[str, int]:
  """The bits of a student's weights and activations in training, 0 for none; a teacher's are none."""
  return {k: config.get(k, 0) for k in ('weight_bits', 'activation_bits')}


def tap_names(config: Mapping) -> set[str]:
  """The paths and patterns among the options of `config.methods`, of which some may name modules."""
  pending, names = [config], set()
  while pending:
    value = pending.pop()
    if isinstance(value, Mapping):
      pending += value.values()
    elif isinstance(value, (list, tuple)):
      pending += value
    elif isinstance(value, str) and ('/' in value or '*' in value):
      names.add(value)
  return names


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
  losses = {}
  if not isinstance(config, Mapping) or not all(isinstance(v, Mapping) for v in config.values()):
    raise KdjaxError(f'methods is {config!r}; it is a dict: name -> a dict of weight, taps and options.')

  def option(value: Any) -> Any:
    if not isinstance(value, Mapping):
      return value
    if 'model' not in value:
      return {k: option(v) for k, v in value.items()}
    assert peer is not None, 'an option that is a model needs `peer`'
    return peer(value)

  for name, entry_config in config.items():
    entry = loss_entry.read(name, entry_config)
    options.check(entry.weight, options.Weight, f'methods.{name}.weight')
    schedule = options.check_all(schedules.weight_schedule, entry.schedule, f'methods.{name}')
    method_options = {k: option(v) for k, v in entry.options.items()}
    counts = getattr(registry.module('methods', entry.method), 'EXAMPLES', None)
    if examples and counts and method_options.get(counts) is None:
      method_options[counts] = examples()
    if of_training := getattr(registry.module('methods', entry.method), 'STEPS', None):
      method_options.setdefault(of_training, steps)
    method_ = registry.make('methods', entry.method, method_options, f'methods.{name}')
    if examples and counts and method_options[counts] < examples():
      raise KdjaxError(
        f"methods.{name}.{counts} is {method_options[counts]}, and the largest 'id' of the training data is "
        f'{examples() - 1}: set it to {examples()}, or leave it out.'
      )
    losses[name] = (entry.weight, method_, schedules.weight_schedule(steps, **schedule))
  return combine(losses)


def image_generator(config: Mapping, data: Data, steps: int) -> data_free.ImageGenerator:
  """The generator of `config.generator`: 'scheme', 'model', 'optimiser', and the scheme's options.

  Raises:
    KdjaxError: for a key that is missing, data without images, or a model that makes none.
  """
  scheme_options = dict(config)
  if missing := {'scheme', 'model', 'optimiser'} - scheme_options.keys():
    raise KdjaxError(f'generator has no {sorted(missing)[0]!r}: it needs a scheme, a model and an optimiser.')
  scheme, net, optimiser = (scheme_options.pop(k) for k in ('scheme', 'model', 'optimiser'))
  batch = next(pipeline.eval_batches(data.train, jax.process_count()))
  if 'image' not in batch:
    raise KdjaxError(f'a generator makes images, and the data have {", ".join(sorted(batch))}.')
  *size, channels = batch['image'].shape[1:]
  net = module(net, {'size': tuple(size), 'channels': channels})
  if not hasattr(net, 'noise'):
    raise KdjaxError("generator.model makes no images of noise: choose {'model': 'generator', ...}.")
  loss, tx = registry.make('generators', scheme, scheme_options), optimizers.optimiser(optimiser, steps)
  if isinstance(tx, dot.Dot):
    raise KdjaxError(
      "the optimiser 'dot' takes a gradient of distillation: choose another in generator.optimiser."
    )
  return data_free.ImageGenerator(functions(net, {}), net.noise, loss, tx)


def make_augment(config: Mapping, seed: int, views: Mapping = {}) -> Callable:
  """The augmentation of the batches of a training, `batch -> batch`.

  Args:
    config: its 'train', of which 'augment' is read.
    seed: of the random draws.
    views: name -> operations, the further views of `student.views`.
  """
  return augment.make_augment(tuple(config['augment']), seed, {k: tuple(v) for k, v in views.items()})
