"""The contract that every method keeps; the methods are found, not listed."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import taps
from kdjax import registry

METHODS = sorted(registry.names('methods'))
SEED = jax.random.key(0)
EXAMPLE = taps.example()


class Built(NamedTuple):
  loss: Callable  # (s, t, batch) -> ((sum, count), new_stats), compiled once for each shape
  grads: Callable  # (s, t, batch) -> (value, gradients to the params, s and t)
  stats: dict
  relational: bool


@functools.cache
def build(name):
  method = registry.make('methods', name, taps.needed(name))
  params, stats = jax.jit(method.init)(SEED, *EXAMPLE)

  def loss(params, s, t, batch):
    return method.loss(params, stats, s, t, batch, step=jnp.int32(0), rng=SEED)

  def value(params, s, t, batch):
    (total, count), new = loss(params, s, t, batch)
    return total / jnp.maximum(count, 1), ((total, count), new)

  both, alone = jax.jit(jax.value_and_grad(value, (0, 1, 2), has_aux=True)), jax.jit(loss)

  def losses(*example):  # the gradients of the example's own shapes are compiled anyway
    own = jax.tree.map(shape_and_type, example) == jax.tree.map(shape_and_type, EXAMPLE)
    return both(params, *example)[0][1] if own else alone(params, *example)

  def grads(*example):
    (value, _), grads = both(params, *example)
    return value, grads

  return Built(losses, grads, stats, method.relational)


def shape_and_type(x):
  return np.shape(x), np.result_type(x)


def mean(pair):
  (total, count), _ = pair
  return total / np.maximum(count, 1)


def test_names_are_unique():
  modules = [path.rpartition('.')[2] for path in registry.names('methods').values()]
  assert len(modules) == len(set(modules))


@pytest.mark.parametrize('name', METHODS)
def test_it_says_what_it_is(name):
  module, entry = registry.module('methods', name), registry.entry('methods', name)
  assert isinstance(module.WEIGHT, float) and module.WEIGHT > 0
  assert module.__doc__ and len(module.__doc__.split('\n')[0]) <= 110
  for option in inspect.signature(entry).parameters.values():
    assert option.kind is option.KEYWORD_ONLY
    assert option.default is not option.empty or option.name in taps.needed(name)
    assert option.name in entry.__doc__, f'{name} does not document {option.name}'


@pytest.mark.parametrize('name', METHODS)
def test_it_teaches_only_the_student(name):
  value, (to_params, to_s, to_t) = build(name).grads(*EXAMPLE)
  assert np.isfinite(value)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves((to_params, to_s)))
  assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(to_s)), 'no gradient reaches the student'
  assert all(np.abs(g).max() == 0 for g in jax.tree.leaves(to_t)), 'a gradient reaches the teacher'


@pytest.mark.parametrize('name', METHODS)
def test_its_state_keeps_its_shapes(name):
  _, new = build(name).loss(*EXAMPLE)
  stats = build(name).stats
  assert jax.tree.structure(new) == jax.tree.structure(stats)
  assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, stats)


@pytest.mark.parametrize('name', METHODS)
def test_half_precision_taps_are_raised(name):
  s, t, batch = EXAMPLE
  narrow = (jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), x) for x in (s, t))
  (total, _), _ = build(name).loss(*narrow, batch)
  assert total.dtype == jnp.float32 and np.isfinite(total)


@pytest.mark.parametrize('name', METHODS)
def test_the_order_of_the_batch_does_not_matter(name):
  order = np.random.default_rng(3).permutation(taps.B)
  shuffled = (taps.rows(x, order) for x in EXAMPLE)
  np.testing.assert_allclose(mean(build(name).loss(*shuffled)), mean(build(name).loss(*EXAMPLE)), rtol=1e-5)


@pytest.mark.parametrize('name', METHODS)
def test_padding_takes_no_part(name):
  s, t, batch = EXAMPLE
  real = np.arange(taps.B // 2)  # as many as a half has: compiled once for both
  padded = batch | {'mask': (np.arange(taps.B) < taps.B // 2).astype(np.float32)}
  if 'batch_stats' in str(jax.tree.structure(build(name).stats)):
    pytest.skip('batch norm in training sees the whole batch')
  np.testing.assert_allclose(
    mean(build(name).loss(s, t, padded)),
    mean(build(name).loss(*(taps.rows(x, real) for x in EXAMPLE))),
    rtol=1e-5,
  )


@pytest.mark.parametrize('name', METHODS)
def test_a_loss_that_is_not_relational_adds_up_over_parts(name):
  if build(name).relational:
    pytest.skip('it relates the examples of a batch')
  whole, _ = build(name).loss(*EXAMPLE)
  halves = [
    build(name).loss(*(taps.rows(x, rows) for x in EXAMPLE))[0]
    for rows in np.array_split(np.arange(taps.B), 2)
  ]
  np.testing.assert_allclose([sum(h[i] for h in halves) for i in (0, 1)], whole, rtol=1e-5)


def test_the_documentation_says_nothing_else():
  """A new method is in the page when that is written next, and in `run.py methods` at once."""
  page = (Path(__file__).parents[1] / 'docs' / 'methods.md').read_text().splitlines()
  listed = [line for line in page if line.startswith('| `')]
  assert listed and set(listed) <= set(registry.markdown('methods').splitlines())
