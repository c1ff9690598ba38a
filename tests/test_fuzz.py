"""Whatever the values of a recipe are turned into, the answer is one line, or a training that is finite."""

import random

import jax
import numpy as np
import pytest

from kdjax import recipes
from kdjax.errors import KdjaxError
from kdjax.experiment import stages, validate, validate_config
from kdjax.experiment.experiment import Experiment
from kdjax.recipes import model, training
from mutations import RECIPES, mutated, recipe

PAIRED = {'student': 'image/embed', 'teacher': 'image/embed'}


def accepted(check, config, message):
  """Whether a check lets a config through; what it refuses is one line."""
  try:
    check(config)
  except KdjaxError as e:
    assert '\n' not in str(e) and len(str(e)) <= 2000, message
    return False
  except Exception as e:
    raise AssertionError(f'{message}: {e!r}') from e
  return True


def test_two_thousand_mutations_of_all_recipes():
  rng, plain = random.Random(0), {name: recipe(name) for name in RECIPES}
  let_through = 0
  for i in range(2000):
    name = RECIPES[i % len(RECIPES)]
    config, message = mutated(plain[name], rng)
    let_through += accepted(validate_config.recipe, config, f'{name}: {message}')
  assert 100 < let_through < 1000


@pytest.fixture
def bases(config):
  """Two recipes without long reading, one of pictures and words and one of texts, with small models."""
  config.methods = {'kd': {'weight': 1.0}, 'fitnet': {'weight': 1.0, **PAIRED}, 'rkd': {'weight': 0.1}}
  texts = recipe('instructions')
  for stage in ('teacher', 'student'):
    texts[stage]['model'].update(width=16, depth=1, mlp=32)
  return {'pictures': config.to_dict(), 'texts': texts}


def tried(bases, tmp_path, n, seed):
  """n mutated experiments that no pure check refuses, with whether all of the checking lets them through."""
  rng, data, result = random.Random(seed), {}, 0
  while result < n:
    name = list(bases)[result % len(bases)]
    config, message = mutated(bases[name], rng)
    if not accepted(validate_config.recipe, config, message):
      continue
    result += 1
    experiment = Experiment(config, tmp_path / f'{seed}_{result}')
    key = repr((config['data'], config['seed']))
    if key in data:
      experiment.__dict__['data'] = data[key]
    passed = accepted(lambda _, e=experiment: validate.check(e), config, message)
    if 'data' in experiment.__dict__:
      data[key] = experiment.data
    yield experiment, passed, message


@pytest.mark.whole
def test_mutations_against_models_and_data(bases, tmp_path):
  assert sum(passed for _, passed, _ in tried(bases, tmp_path, 16, 1)) > 4


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(4))
def test_what_is_accepted_trains_to_a_finite_loss(bases, tmp_path, seed):
  for base in bases.values():
    base['seeds'] = 1
  for experiment, passed, message in tried(bases, tmp_path, 50, 10 + seed):
    if passed:
      for stage in ('teacher', 'student'):
        experiment.config[stage]['train']['steps'] = 2
      experiment.config['run']['dispatch'] = 1
      try:
        stages.run(experiment, ('teacher', 'student'))
      except Exception as e:
        raise AssertionError(f'{message}: {e!r}') from e
      assert all(np.isfinite(x).all() for x in jax.tree.leaves(experiment.variables('student')))


@pytest.mark.parametrize('stage', ['teacher', 'student'])
def test_a_model_too_large_for_the_memory_is_known_before_anything_is_trained(config, experiment, stage):
  config[stage].model = model('fusion', width=2**20, encoders={'image': model('mlp', hidden=(2**20, 2**20))})
  exp = experiment()
  with pytest.raises(KdjaxError, match=f'{stage}: the training takes at least .*{stage}.model'):
    stages.run(exp)
  assert not exp.workdir.exists()


@pytest.mark.parametrize(
  ('key', 'value', 'said'),
  [
    (
      'student.train.optimiser.warmup',
      500,
      'student.train.optimiser.warmup is 500; it has to be',
    ),
    ('teacher.train.optimiser.lr', -1, 'teacher.train.optimiser.lr is -1'),
    ('methods.kd.temperature', 0.0, 'methods.kd.temperature is 0.0'),
    ('methods.kd.weight', -1.0, 'methods.kd.weight is -1.0'),
    ('student.drop', {'image': 30}, 'student.drop.image is 30'),
    ('student.train.ema', float('nan'), 'student.train.ema is nan'),
    ('student.model.dropout', 1.0, 'student.model.dropout is 1.0'),
    ('data.image_size', -5, 'data.image_size is -5'),
    ('data.memory', float('nan'), 'data.memory is nan'),
    ('task.label_smoothing', 2, 'task.label_smoothing is 2'),
    (
      'student.model',
      {'model': 'vit', 'width': 10, 'heads': 3},
      'student.model.heads is 3; it',
    ),
  ],
)
def test_a_number_out_of_range_is_refused_before_data_are_read(config, experiment, key, value, said):
  plain, (*above, last) = config.to_dict(), key.split('.')
  tree = plain
  for part in above:
    tree = tree[part]
  tree[last] = value
  with pytest.raises(KdjaxError) as caught:
    validate.check(Experiment(plain, None))
  assert str(caught.value).startswith(said)


def test_training_is_what_it_was():
  result = training(5, 8, 0.1, momentum=0.9, name='sgd').to_dict()
  assert result['optimiser']['momentum'] == 0.9 and result['optimiser']['lr'] == 0.1 and result['steps'] == 5
  assert recipes.base('x').teacher.train.optimiser.clip == 1.0
