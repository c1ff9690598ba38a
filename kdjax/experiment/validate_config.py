"""Checks of the config alone: in milliseconds, before data are read or anything is traced."""

from collections.abc import Mapping
from typing import Any

from kdjax import options, registry, settings
from kdjax.errors import KdjaxError
from kdjax.experiment import build, loss_entry
from kdjax.experiment.cohort import member_config
from kdjax.input import augment, views
from kdjax.nn import wrappers
from kdjax.pretrained import initialize
from kdjax.runtime import trust
from kdjax.runtime.progress import say
from kdjax.training import optimizers
from kdjax.types import Model

UNUSED: Any = None  # in place of a function or module: only the type of what holds it is checked


def recipe(config: Mapping) -> None:
  """Checks every key of a recipe and every option of what it names, of the members of a cohort too.

  Raises:
    KdjaxError: one line for the first mistake, with its key.
  """
  settings.check(config)
  _student(config)
  teacher(config['teacher'])
  _outputs(config)
  data(config['data'])
  name, options_ = named(config['task'], 'name', 'task')
  task = registry.make('tasks', name, options_, 'task')
  losses(config['methods'], name, task.label)
  if config['generator']:
    generator(config['generator'])
  for name, changes in config['cohort'].items():
    try:
      member = member_config(config, name, changes)
      settings.check(member)
      _student(member)
      losses(member['methods'], name, task.label)
    except KdjaxError as e:
      raise KdjaxError(str(e) if str(e).startswith('cohort.') else f'cohort.{name}: {e}') from e


def named(config: Mapping, key: str, where: str) -> tuple[str, dict]:
  """(the name under `key` of a dict, the other entries).

  Raises:
    KdjaxError: if it is no name.
  """
  options_ = dict(config)
  name = options_.pop(key, None)
  if not isinstance(name, str) or not name:
    raise KdjaxError(f'{where}.{key} is {options.shown(name)}; it has to be a name.')
  return name, options_


def teacher(config: Mapping) -> None:
  model(config['model'], 'teacher.model', complete=not config['init'])
  training(config['train'], 'teacher.train')


def _outputs(config):
  """Checks `teacher.outputs` against what needs a model in their place."""
  if not config['teacher']['outputs']:
    return
  if config['teacher']['init'] or config['teacher']['model'].get('model') != 'precomputed':
    raise KdjaxError('teacher.outputs takes the place of a model: leave teacher.model and teacher.init out.')
  for key, value in (('generator', config['generator']), ('on_policy.share', config['on_policy']['share'])):
    if value:
      raise KdjaxError(f'{key} makes examples of its own, of which teacher.outputs has none: leave one out.')


def _student(config):
  student = config['student']
  model(student['model'], 'student.model')
  training(student['train'], 'student.train')
  augment.make_augment((), 0, student['views'])
  views.check(config)

  def peer(config):
    model(config, 'a peer in methods')
    return Model(UNUSED, UNUSED)

  build.method(config['methods'], student['train']['steps'], peer)


def losses(config: Mapping, task: str, label: str) -> None:
  """Checks that no loss reads the one number of a regression as scores of classes: it would be 0 for ever.

  Raises:
    KdjaxError: for one that does, with those that do not.
  """
  if label not in ('number', 'classes'):
    return
  for name, entry in config.items():
    read = loss_entry.read(name, entry)
    module, tap = (
      registry.module('methods', read.method),
      registry.options('methods', read.method).get('student'),
    )
    pairs_scores = tap == 'logits' and read.options.get('student', tap) == tap
    if not pairs_scores or getattr(module, 'NUMBERS', False):
      continue
    if label == 'classes':
      if read.method != 'multi_label':
        say(
          f'warning: methods.{name} takes the classes as exclusive, and those of the task {task!r} are not: '
          "'multi_label' and 'logit_mse' do not."
        )
      continue
    raise KdjaxError(
      f'methods.{name} compares the scores of several classes, and the task {task!r} has one number: take '
      f'--config.methods.{name}=None --config.methods.logit_mse.weight=1 (also logit_l1, euclidean; '
      'fitnet and rkd on embeddings).'
    )


def training(config: Mapping, where: str) -> None:
  optimizers.check(config['optimiser'], f'{where}.optimiser')
  augment.make_augment(tuple(config['augment']), 0)


def data(config: Mapping) -> None:
  name = config['name']
  if name and not registry.is_object(name) and (name in registry.names('data') or trust.dotted(name)):
    registry.check('data', name, config['options'], 'data.options')


def generator(config: Mapping) -> None:
  scheme, options_ = named(config, 'scheme', 'generator')
  for key in ('model', 'optimiser'):
    if key not in options_:
      raise KdjaxError(f'generator has no {key!r}: it needs a scheme, a model and an optimiser.')
  model(options_.pop('model'), 'generator.model')
  optimizers.check(options_.pop('optimiser'), 'generator.optimiser')
  registry.make('generators', scheme, options_, 'generator')


def model(config: Any, where: str, complete: bool = True) -> Any:
  """Checks the dict of a model, and those of the models within it.

  Args:
    config: the dict.
    where: its key.
    complete: False where a checkpoint fills in missing attributes.

  Returns:
    The module, or a placeholder where it is not complete.

  Raises:
    KdjaxError: for the first mistake, with its key.
  """
  if not isinstance(config, Mapping) or not isinstance(config.get('model'), str):
    raise KdjaxError(f"{where} is {options.shown(config)}; a model is a dict, {{'model': its name, ...}}.")
  name, attributes = named(config, 'model', where)
  init, frozen = attributes.pop('init', ''), attributes.pop('frozen', False)
  options.check(init, str | Mapping[str, Any], f'{where}.init')
  options.check(frozen, bool, f'{where}.frozen')
  complete = complete and not init

  def inner(value, key):
    if not isinstance(value, Mapping):
      return value
    if 'model' in value:
      return model(value, key, complete)
    return {k: inner(v, f'{key}.{k}') for k, v in value.items()}

  attributes = {k: inner(v, f'{where}.{k}') for k, v in attributes.items()}
  if not complete:
    registry.check('models', name, attributes, where)
    return initialize.Frozen(UNUSED)
  known = registry.options('models', name)
  filled = {k: 3 for k in ('vocab_size', 'num_classes') if k in known}  # the data decide
  built = registry.make('models', name, filled | attributes, where)
  if not wrappers.is_own(built):
    return built
  heads, width = getattr(built, 'heads', None), getattr(built, 'width', 0)
  if heads and width % heads:
    raise KdjaxError(f'{where}.heads is {heads}; it has to divide the width, {width}.')
  return built
