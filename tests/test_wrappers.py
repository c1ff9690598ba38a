"""Models that were written elsewhere: how they are called, what they return, their taps and their state."""

import dataclasses
import functools
import sys
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.nn.functional import functions
from kdjax.nn.wrappers import call, outputs, wrap
from kdjax.runtime import trust

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
BATCH = {
  'image': IMAGE,
  'label': np.zeros(2, np.int32),
  'id': np.arange(2, dtype=np.int32),
  'mask': np.ones(2, np.float32),
}
TEXT = {
  'text': np.array([[1, 2, 0], [3, 0, 0]], np.int32),
  'text/mask': np.array([[1, 1, 0], [1, 0, 0]], bool),
}
SEEN = (IMAGE / 255).astype(np.float32)  # what a model of somebody's own gets


class Array(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(5)(x.mean((1, 2)))


class Dict(nn.Module):
  @nn.compact
  def __call__(self, batch):
    assert set(batch) == {'image'}  # neither labels nor ids
    return {'logits': nn.Dense(5)(batch['image'].mean((1, 2)))}


class Native(nn.Module):
  """The convention of kdjax: a dict, images as they are, and taps."""

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    assert inputs['image'].dtype == jnp.uint8
    return {'logits': nn.Dense(5)(inputs['image'].astype(jnp.float32).mean((1, 2)))}


class Deterministic(nn.Module):
  @nn.compact
  def __call__(self, pixel_values, deterministic: bool):
    return nn.Dropout(0.5)(nn.Dense(5)(pixel_values.mean((1, 2))), deterministic=deterministic)


class Field(nn.Module):
  training: bool = False

  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(use_running_average=not self.training)(x)
    return nn.Dense(5)(x.mean((1, 2)))


class Two(nn.Module):
  @nn.compact
  def __call__(self, image, input_ids, attention_mask=None):
    assert attention_mask is not None
    return nn.Dense(5)(image.mean((1, 2))) + nn.Embed(8, 5)(input_ids).mean(1)


class Classifier(nnx.Module):
  def __init__(self, width=4, *, rngs):
    self.conv = nnx.Conv(3, width, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(width, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
    self.out = nnx.Linear(width, 5, rngs=rngs)

  def features(self, x):
    return self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2))

  def __call__(self, x):
    x = self.features(x)
    for layer in self.layers:
      x = layer(x)
    return self.out(x)


KINDS = {
  'linen, array': (Array(), BATCH),
  'linen, dict': (Dict(), BATCH),
  'linen, as kdjax': (Native(), BATCH),
  'linen, deterministic': (Deterministic(), BATCH),
  'linen, a field says whether it trains': (Field(), BATCH),
  'linen, several arrays by name': (Two(), BATCH | TEXT),
  'nnx, a class': (Classifier, BATCH),
  'nnx, a partial': (functools.partial(Classifier, 3), BATCH),
  'nnx, a function of rngs': (lambda rngs: Classifier(rngs=rngs), BATCH),
  'nnx, an instance': (Classifier(rngs=nnx.Rngs(1)), BATCH),
  'function': (lambda x: x.mean((1, 2))[:, :1] * jnp.ones(5), BATCH),
  'function, jitted': (jax.jit(lambda x: x.mean((1, 2))[:, :1] * jnp.ones(5)), BATCH),
  'function of a dict': (lambda batch: {'logits': batch['image'].mean((1, 2))[:, :1] * jnp.ones(5)}, BATCH),
}


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_is_a_model(kind):
  net, batch = KINDS[kind]
  model = functions(net, {})
  variables = model.init(jax.random.key(0), batch)
  assert len(jax.tree.leaves(variables)) > 0 and 'params' in variables
  taps, stats = model.apply(variables, batch)
  assert taps['logits'].shape == (2, 5) and taps['logits'].dtype == jnp.float32
  assert stats.keys() == variables.keys() - {'params'}
  trained, new = jax.jit(lambda v, b, r: model.apply(v, b, train=True, rng=r))(
    variables, batch, jax.random.key(1)
  )
  assert trained.keys() == taps.keys() and jax.tree.structure(new) == jax.tree.structure(stats)
  again, _ = model.apply(variables, batch)  # nothing is left of the training
  np.testing.assert_array_equal(taps['logits'], again['logits'])


def test_images_are_given_as_the_data_have_them():
  seen = []
  wrapped = wrap(lambda x: seen.append(x) or x.mean((1, 2)))
  wrapped.apply({}, BATCH)
  np.testing.assert_allclose(seen[-1], SEEN, atol=1e-6)
  held = SEEN * 2 - 1  # kdjax holds floats in [-1, 1]
  for scale, expected in (('0 to 1', SEEN), ('0 to 255', SEEN * 255), ('-1 to 1', held), ('', held)):
    wrapped = wrap(lambda x: seen.append(x) or x.mean((1, 2)), {'image': scale})
    wrapped.apply({}, {'image': held})
    np.testing.assert_allclose(seen[-1], expected, atol=1e-4)


def test_batch_norm_and_dropout_work_in_training_alone():
  for net in (functools.partial(Classifier, 4), Field()):
    model = functions(net, {})
    variables = model.init(jax.random.key(0), BATCH)
    _, stats = model.apply(variables, BATCH, train=True, rng=jax.random.key(0))
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), variables['batch_stats'], stats['batch_stats'])
    assert all(jax.tree.leaves(changed))
  draws = [model_output(Classifier, seed) for seed in (0, 0, 1)]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert (draws[0] != draws[2]).any()


def model_output(net, seed):
  model = functions(net, {})
  variables = model.init(jax.random.key(0), BATCH)
  return model.apply(variables, BATCH, train=True, rng=jax.random.key(seed))[0]['logits']


def test_seeds_of_an_nnx_module_start_apart_and_an_instance_as_it_is():
  made = functions(Classifier, {})
  a, b = (made.init(jax.random.key(i), BATCH)['params']['out']['kernel'] for i in (0, 1))
  assert (a != b).any()
  given = Classifier(rngs=nnx.Rngs(7))
  model = functions(given, {})
  variables = model.init(jax.random.key(0), BATCH)
  np.testing.assert_array_equal(variables['params']['out']['kernel'], given.out.kernel.get_value())
  given.eval()
  np.testing.assert_allclose(model.apply(variables, BATCH)[0]['logits'], given(jnp.asarray(SEEN)), atol=1e-6)


def test_gradients_reach_the_weights():
  for net in (Array(), Classifier):
    model = functions(net, {})
    variables = model.init(jax.random.key(0), BATCH)
    others = {k: v for k, v in variables.items() if k != 'params'}

    def loss(params, model=model, others=others):
      return model.apply({'params': params, **others}, BATCH)[0]['logits'].sum()

    gradient = jax.grad(loss)(variables['params'])
    assert sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(gradient)) > 0


def test_modules_within_are_taps():
  taps = functions(Classifier, {}).apply(functions(Classifier, {}).init(jax.random.key(0), BATCH), BATCH)[0]
  assert {'conv', 'norm', 'layers/0', 'layers/1', 'features', 'out', 'logits'} <= taps.keys()
  assert taps['conv'].shape == (2, 4, 4, 4)

  class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
      layer = nn.Dense(3, name='shared')
      self.sow('intermediates', 'mine', x)
      return layer(layer(x))

  model = functions(Twice(), {})
  taps, _ = model.apply(model.init(jax.random.key(0), BATCH), BATCH)
  assert taps.keys() == {'shared', 'shared:1', 'mine', 'logits'}
  np.testing.assert_array_equal(taps['shared:1'], taps['logits'])


class Pair(NamedTuple):
  logits: object
  hidden: object


@dataclasses.dataclass
class Record:
  scores: object
  hidden_states: tuple
  note: str = 'no array'
  missing: None = None


def test_what_is_returned_has_names():
  x, y = jnp.ones((2, 3)), jnp.zeros((2, 4))
  assert outputs.taps(x).keys() == {'logits'}
  assert outputs.taps((x, y)).keys() == {'logits', 'output1'}
  assert outputs.taps((x, {'hidden': y})).keys() == {'logits', 'hidden'}
  assert outputs.taps({'logits': x, 'aux': {'deep': y}, 'list': [x, y]}).keys() == {
    'logits', 'aux/deep', 'list/0', 'list/1'
  }  # fmt: skip
  assert outputs.taps(Pair(x, y)).keys() == {'logits', 'hidden'}
  assert outputs.taps(Record(x, (x, y))).keys() == {'scores', 'hidden_states/0', 'hidden_states/1'}
  for nothing in (None, 'text', {}, [], {'a': None}):
    with pytest.raises(KdjaxError, match='returns .* no array'):
      outputs.taps(nothing)


def test_a_call_that_cannot_be_is_one_line():
  class Needs(nn.Module):
    @nn.compact
    def __call__(self, picture, question):
      return picture

  class Wrong(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(3)(x.reshape(-1, 7))

  for net, match in (
    (
      Needs(),
      r'Needs cannot be called with the data, image uint8 \[2, 4, 4, 3\]: its parameters are picture, ques',
    ),
    (Wrong(), r'Wrong\(image\) raises TypeError: .* Name its inputs with inputs='),
    (lambda x: float(x.sum()), r'raises ConcretizationTypeError'),
  ):
    with pytest.raises(KdjaxError, match=match) as e:
      functions(net, {}).init(jax.random.key(0), BATCH)
    assert '\n' not in str(e.value)
  for value, match in (
    (Array, 'is a class: give an instance'),
    (7, 'a int is no model'),
    ('x', 'a str is no'),
  ):
    with pytest.raises(KdjaxError, match=match):
      wrap(value)


def test_inputs_are_named_by_the_map():
  class Needs(nn.Module):
    @nn.compact
    def __call__(self, picture, question):
      return nn.Dense(5)(picture.mean((1, 2))) + nn.Embed(8, 5)(question).mean(1)

  model = functions(Needs(), {'picture': 'image', 'question': 'text'})
  taps, _ = model.apply(model.init(jax.random.key(0), BATCH | TEXT), BATCH | TEXT)
  assert taps['logits'].shape == (2, 5)


def test_parameters_are_read_by_their_names():
  arrays = BATCH | TEXT
  (only,) = call.candidates(lambda input_ids, pixel_values, attention_mask=None: 0, arrays)
  assert only.named == {'input_ids': 'text', 'pixel_values': 'image', 'attention_mask': 'text/mask'}
  assert call.modes(('train', 'deterministic'), True) == {'train': True, 'deterministic': False}


OWN = """
import flax.linen as nn
from flax import nnx
class Small(nn.Module):
  width: int
  num_classes: int
  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.num_classes)(nn.Dense(self.width)(x.mean((1, 2))))
class Other(nnx.Module):
  def __init__(self, width, num_classes, *, rngs):
    self.a, self.b = nnx.Linear(3, width, rngs=rngs), nnx.Linear(width, num_classes, rngs=rngs)
  def __call__(self, x):
    return self.b(self.a(x.mean((1, 2))))
def helper(x):
  return x
"""


def test_a_class_of_ones_own_by_its_name(tmp_path, monkeypatch):
  (tmp_path / 'own_nets.py').write_text(OWN)
  monkeypatch.syspath_prepend(tmp_path)
  assert trust.digest('own_nets.Small') and 'own_nets' not in sys.modules
  with pytest.raises(KdjaxError, match='is no part of kdjax'):
    registry.make('models', 'own_nets.Small', {})
  monkeypatch.setattr(
    trust, 'TRUSTED', {'own_nets.Small', 'own_nets.Other', 'own_nets.helper', 'own_nets.None_'}
  )
  for name in ('Small', 'Other'):
    assert registry.options('models', f'own_nets.{name}').keys() == {'width', 'num_classes'}
    model = functions(registry.make('models', f'own_nets.{name}', {'width': 4, 'num_classes': 5}), {})
    assert model.apply(model.init(jax.random.key(0), BATCH), BATCH)[0]['logits'].shape == (2, 5)
    with pytest.raises(KdjaxError, match="needs the option 'num_classes'"):
      registry.make('models', f'own_nets.{name}', {'width': 4})
    with pytest.raises(KdjaxError, match="'depth'"):
      registry.make('models', f'own_nets.{name}', {'depth': 4})
  for name in ('helper', 'None_'):
    with pytest.raises(KdjaxError, match='own_nets defines no Linen or NNX module called'):
      registry.make('models', f'own_nets.{name}', {})
