"""Holds a method against a second writing of it in NumPy, and against what must not break it.

A writing is `(s, t, params, still) -> float`, with `still = (s, params)` for what carries no
gradient, so that its difference quotients are the gradient of the method.
"""

import copy

import jax
import jax.numpy as jnp
import numpy as np


def loss(method, params, stats, s, t, batch):
  (total, count), _ = method.loss(params, stats, s, t, batch, step=0, rng=jax.random.key(0))
  return total / jnp.maximum(count, 1)


def quotients(function, x, h=1e-6):
  """The difference quotients of `function()` by each entry of `x`, which it reads."""
  result = np.zeros_like(x)
  for i in np.ndindex(x.shape):
    old, sides = x[i], []
    for sign in (1, -1):
      x[i] = old + sign * h
      sides.append(function())
    x[i] = old
    result[i] = (sides[0] - sides[1]) / (2 * h)
  return result


def difference_quotient(f, x, h=1e-5):
  """The difference quotients of `f(x)` by each entry of `x`."""
  x = x.copy()
  return quotients(lambda: f(x), x, h)


def info_nce_gradients(info_nce, v, w, c):
  """By differences, the gradients of `info_nce(v, w, c)` and of `info_nce(w, v, c)` by both embeddings."""
  return [
    difference_quotient(lambda x: info_nce(x, w, c), v),
    difference_quotient(lambda x: info_nce(v, x, c), w),
    difference_quotient(lambda x: info_nce(x, v, c), w),
    difference_quotient(lambda x: info_nce(w, x, c), v),
  ]


def check(method, writing, s, t, batch):
  """Value and gradient, by the taps `s` and by the method's parameters, in float64."""
  with jax.enable_x64(True):
    params, stats = method.init(jax.random.key(1), s, t, batch)
    noise = np.random.default_rng(2)  # no bias stays 0
    params = jax.tree.map(lambda x: np.asarray(x, np.float64) + 0.3 * noise.normal(size=x.shape), params)
    live = jax.tree.map(lambda x: np.array(x, np.float64), (s, params))
    still = copy.deepcopy(live)
    result, grads = jax.jit(jax.value_and_grad(lambda x: loss(method, x[1], stats, x[0], t, batch)))(still)

    def written():
      return writing(live[0], t, live[1], still)

    np.testing.assert_allclose(result, written(), rtol=1e-9)
    for (path, leaf), grad in zip(
      jax.tree_util.tree_flatten_with_path(live)[0], jax.tree.leaves(grads), strict=True
    ):
      wanted = quotients(written, leaf)
      np.testing.assert_allclose(grad, wanted, rtol=1e-5, atol=1e-7, err_msg=jax.tree_util.keystr(path))


def check_finite(method, s, t, batch, zero_when_equal):
  """Finite values and gradients for taps that are equal, huge or zero, and for a batch of padding.

  One program serves all cases of one shape.
  """
  s, t = (jax.tree.map(lambda x: np.asarray(x, np.float32), x) for x in (s, t))
  batch, padding = (batch | {'mask': np.full(len(batch['label']), x, np.float32)} for x in (1, 0))
  init = jax.jit(method.init)
  step = jax.jit(jax.value_and_grad(lambda x, stats, t, batch: loss(method, x[0], stats, x[1], t, batch)))
  of_both, of_equals = (init(jax.random.key(1), x, t, batch) for x in (s, t))
  for case, (params, stats), inputs in (
    ('equal', of_equals, (t, t, batch)),
    ('saturated', of_both, (*(jax.tree.map(lambda v: 1e4 * np.sign(v), x) for x in (s, t)), batch)),
    ('zero', of_both, (*(jax.tree.map(np.zeros_like, x) for x in (s, t)), batch)),
    ('padding', of_both, (s, t, padding)),
  ):
    of_student, *others = inputs
    result, grads = step((params, of_student), stats, *others)
    assert np.isfinite(result), case
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads)), case
    if case == 'padding':
      assert result == 0 and all(np.abs(g).max() == 0 for g in jax.tree.leaves(grads))
    if case == 'equal' and zero_when_equal:
      np.testing.assert_allclose(result, 0, atol=1e-5)
