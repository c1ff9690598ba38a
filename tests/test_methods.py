"""The contract that every method keeps; the methods are found, not listed."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import taps

from kdjax import catalogue

METHODS = sorted(catalogue.names('methods'))
SEED = jax.random.key(0)


def build(name):
  method = catalogue.make('methods', name, {})
  s, t, batch = taps.example()
  return method, *method.init(SEED, s, t, batch), s, t, batch


def mean(method, params, stats, s, t, batch):
  (total, count), _ = method.loss(params, stats, s, t, batch, step=jnp.int32(0), rng=SEED)
  return total / jnp.maximum(count, 1)


def test_names_are_unique():
  modules = [path.rpartition('.')[2] for path in catalogue.names('methods').values()]
  assert len(modules) == len(set(modules))


@pytest.mark.parametrize('name', METHODS)
def test_it_says_what_it_is(name):
  module, entry = catalogue.module('methods', name), catalogue.entry('methods', name)
  assert isinstance(module.WEIGHT, float) and module.WEIGHT > 0
  assert module.__doc__ and len(module.__doc__.split('\n')[0]) <= 110
  for option in inspect.signature(entry).parameters.values():
    assert option.kind is option.KEYWORD_ONLY and option.default is not option.empty
    assert option.name in entry.__doc__, f'{name} does not document {option.name}'


@pytest.mark.parametrize('name', METHODS)
def test_it_runs_under_jit_and_teaches_only_the_student(name):
  method, params, stats, s, t, batch = build(name)

  @jax.jit
  def both(params, s, t):
    value, grads = jax.value_and_grad(
      lambda p, s, t: mean(method, p, stats, s, t, batch), (0, 1, 2)
    )(params, s, t)
    return value, grads

  value, (to_params, to_s, to_t) = both(params, s, t)
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves((to_params, to_s)))
  assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(to_s)), 'no gradient reaches the student'
  assert all(np.abs(g).max() == 0 for g in jax.tree.leaves(to_t)), 'a gradient reaches the teacher'


@pytest.mark.parametrize('name', METHODS)
def test_its_state_keeps_its_shapes(name):
  method, params, stats, s, t, batch = build(name)
  _, new = method.loss(params, stats, s, t, batch, step=jnp.int32(0), rng=SEED)
  assert jax.tree.structure(new) == jax.tree.structure(stats)
  assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, stats)


@pytest.mark.parametrize('name', METHODS)
def test_half_precision_taps_are_raised(name):
  method, params, stats, s, t, batch = build(name)
  s, t = (jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), x) for x in (s, t))
  (total, _), _ = method.loss(params, stats, s, t, batch, step=jnp.int32(0), rng=SEED)
  assert total.dtype == jnp.float32 and np.isfinite(total)


@pytest.mark.parametrize('name', METHODS)
def test_the_order_of_the_batch_does_not_matter(name):
  method, params, stats, s, t, batch = build(name)
  order = np.random.default_rng(3).permutation(taps.B)
  shuffled = (taps.rows(x, order) for x in (s, t, batch))
  np.testing.assert_allclose(
    mean(method, params, stats, *shuffled), mean(method, params, stats, s, t, batch), rtol=1e-5
  )


@pytest.mark.parametrize('name', METHODS)
def test_padding_takes_no_part(name):
  method, params, stats, s, t, batch = build(name)
  real = np.arange(taps.B - 4)
  padded = batch | {'mask': (np.arange(taps.B) < taps.B - 4).astype(np.float32)}
  if 'batch_stats' in stats:
    pytest.skip('batch norm in training sees the whole batch')
  np.testing.assert_allclose(
    mean(method, params, stats, s, t, padded),
    mean(method, params, stats, *(taps.rows(x, real) for x in (s, t, batch))),
    rtol=1e-5,
  )


@pytest.mark.parametrize('name', METHODS)
def test_a_loss_that_is_not_relational_adds_up_over_parts(name):
  method, params, stats, s, t, batch = build(name)
  if method.relational:
    pytest.skip('it relates the examples of a batch')
  whole, _ = method.loss(params, stats, s, t, batch, step=jnp.int32(0), rng=SEED)
  parts = [
    method.loss(
      params, stats, *(taps.rows(x, i) for x in (s, t, batch)), step=jnp.int32(0), rng=SEED
    )[0]
    for i in np.array_split(np.arange(taps.B), 3)
  ]
  np.testing.assert_allclose([sum(p[i] for p in parts) for i in (0, 1)], whole, rtol=1e-5)
