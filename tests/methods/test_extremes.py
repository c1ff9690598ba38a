"""Every method at extreme numbers: finite where its mathematics is, infinite where it is not, never NaN.

What is extreme is made of the taps that all tests of methods share, so that one program of a method serves
every case. The slow tests do the same with LLVM's optimisations, as a user's machine does, and op by op.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Literal

import taps
from kdjax import registry
from kdjax.methods.dynamic.dtkd import dtkd
from kdjax.nn import losses
from test_methods import METHODS, build

S, T, BATCH = taps.example()
LOGITS = [k for k in S if 'logits' in k]
FEATURES = [k for k in S if 'logit' not in k and 'attention' not in k]
LEAST = np.finfo(np.float32).min
MASKS = (-np.inf, -1e30, LEAST)

# Squares of features of 1e13 are summed and squared again: above the largest float32, so infinite.
OVERFLOW = {'fsp', 'gram_match', 'cckd'}
# A class that the student alone rules out, and the teacher does not: KL is infinite, and so is a distance.
KL = {'confidence', 'ctkd', 'cwsm', 'difficulty', 'dino', 'dkd', 'dtkd', 'flsw', 'hard_label', 'kd', 'mfh'}
KL |= {'multi_label', 'nkd', 'ps_kd', 'skd', 'soft_cross_entropy', 'srd', 'wsld', 'c2kd', 'mlkd', 'ca_mkd'}
KL |= {'mean_logits', 'mean_probabilities', 'dml', 'ofa_kd', 'rld', 'ttm'}
KL |= {'g2d', 'mst_distill'}
DISTANCES = {'alignment', 'cmd', 'euclidean', 'irg', 'logit_l1', 'logit_mse'}
# These compare directions, or patterns in a map: the same at any scale of the features.
SCALE_FREE = {'at_mean', 'cc_taylor', 'clip_afd', 'clip_crd', 'clip_cross_kd', 'clip_fd', 'clip_gd', 'nst'}
SCALE_FREE |= {'clip_icl', 'clip_kd', 'crd_in_batch', 'mobileclip', 'pkd_bert', 'pkd_pearson', 'siglip'}
SCALE_FREE |= {'pooled_feature', 'sp', 'tinyclip', 'token_similarity'}


def on(keys, function, tree):
  return {k: np.asarray(function(v), np.float32) if k in keys else v for k, v in tree.items()}


def masked(tree, value):
  return on(LOGITS, lambda x: np.where(np.arange(x.shape[-1]) == 1, value, x), tree)


def valid(mask):
  return BATCH | {'mask': np.asarray(mask, np.float32)}


ALIKE = {k: T[k] if T[k].shape == v.shape else v for k, v in S.items()}  # what has one shape is the teacher's
FIRST = [on(x, lambda v: np.broadcast_to(v[:1], v.shape) if v.ndim else v, x) for x in (S, T)]
UNMASKED = BATCH | {  # no label and no token is the class that is ruled out
  'label': np.where(BATCH['label'] == 1, 0, BATCH['label']),
  'text/target': np.where(BATCH['text/target'] == 1, 0, BATCH['text/target']),
}
CASES = {
  'saturated': (*(on(LOGITS, lambda x: 1e4 * x, x) for x in (S, T)), BATCH),
  'saturated and right': (*(on(LOGITS, lambda x: 1e4 * x, x) for x in (ALIKE, T)), BATCH),
  'saturated and wrong': (on(LOGITS, lambda x: -1e4 * x, ALIKE), on(LOGITS, lambda x: 1e4 * x, T), BATCH),
  'below zero': (on(LOGITS, lambda x: -1e4 + x, S), on(LOGITS, lambda x: 1e4 * np.sign(x), T), BATCH),
  'flat': (*(on(LOGITS, lambda x: 0 * x + 3, x) for x in (S, T)), BATCH),
  'zero': (*(on(LOGITS + FEATURES, np.zeros_like, x) for x in (S, T)), BATCH),
  'tiny': (*(on(FEATURES, lambda x: 1e-13 * x, x) for x in (S, T)), BATCH),
  'huge': (*(on(FEATURES, lambda x: 1e13 * x, x) for x in (S, T)), BATCH),
  'alike': (ALIKE, T, BATCH),
  'one example over and over': (*FIRST, BATCH),
  'one example': (S, T, valid(np.arange(taps.B) == 2)),
  'no label': (S, T, BATCH | {'label': np.full(taps.B, -1, np.int32)}),
}


def arrays(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


def check_finite(name, function, cases):
  for case in cases:
    value, (to_params, to_s, _) = function(*CASES[case])
    if case == 'huge' and name in OVERFLOW:
      assert value == np.inf, f'{case}: {value}'
      continue
    assert np.isfinite(value), f'{case}: {value}'
    assert all(np.isfinite(x).all() for x in arrays((to_params, to_s))), f'{case}: the gradient'


@pytest.mark.whole
@pytest.mark.parametrize('name', METHODS)
def test_it_is_finite_where_its_mathematics_is(name):
  check_finite(name, build(name).grads, CASES)


@pytest.mark.whole
@pytest.mark.parametrize('name', METHODS)
def test_a_batch_of_padding_gives_nothing(name):
  value, grads = build(name).grads(S, T, valid(np.zeros(taps.B)))
  assert value == 0 and all(np.all(x == 0) for x in arrays(grads))


@pytest.mark.whole
@pytest.mark.parametrize('name', METHODS)
def test_a_class_that_is_ruled_out(name):
  """By both it adds nothing, however it is written; by the student alone it is infinite, or left out."""
  ways = [*((mask, mask) for mask in MASKS), (-np.inf, LEAST)]
  both = [build(name).grads(masked(S, a), masked(T, b), UNMASKED) for a, b in ways]
  if name == 'dml':  # whose peer rules out nothing
    assert both[0][0] == np.inf
  else:
    assert all(np.isfinite(x).all() for x in arrays(both))
    np.testing.assert_allclose([value for value, _ in both], both[0][0], rtol=1e-5, atol=1e-6)
  alone, _ = build(name).grads(masked(S, -np.inf), T, UNMASKED)
  assert alone == np.inf if name in KL | DISTANCES else np.isfinite(alone)
  taught, (_, to_s, _) = build(name).grads(S, masked(T, -np.inf), UNMASKED)
  assert taught == np.inf if name in DISTANCES else np.isfinite(taught)
  assert name in DISTANCES or all(np.isfinite(x).all() for x in arrays(to_s))


@pytest.mark.whole
@pytest.mark.parametrize('name', sorted(SCALE_FREE))
def test_the_scale_of_features_does_not_matter(name):
  value, (_, to_s, _) = build(name).grads(S, T, BATCH)
  for case, scale in (('tiny', 1e-13), ('huge', 1e13)):
    other, (_, other_s, _) = build(name).grads(*CASES[case])
    np.testing.assert_allclose(other, value, rtol=1e-4, err_msg=case)
    for key in FEATURES:
      size = np.abs(to_s[key]).max()
      np.testing.assert_allclose(scale * other_s[key], to_s[key], rtol=1e-3, atol=1e-4 * size, err_msg=key)


@pytest.mark.whole
@pytest.mark.parametrize('name', METHODS)
def test_half_precision_is_raised_before_anything_is_computed(name):
  narrow = [jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), x) for x in (S, T)]
  wide = [jax.tree.map(lambda x: np.asarray(x, np.float32), x) for x in narrow]
  (one, _), _ = build(name).loss(*narrow, BATCH)
  (other, _), _ = build(name).loss(*wide, BATCH)
  np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.whole
def test_masks_leave_what_is_there_without_the_class():
  rng = np.random.default_rng(0)
  p, q = 3 * rng.normal(size=(2, 4, 5)).astype(np.float32)
  out = np.arange(5) == 2
  for mask in MASKS:
    a, b = np.where(out, mask, p), np.where(out, mask, q)
    for function in (losses.kl, losses.soft_cross_entropy):
      np.testing.assert_allclose(function(a, b, 0.5), function(p[:, ~out], q[:, ~out], 0.5), rtol=1e-5)
    got = np.asarray(losses.standardise(a))
    np.testing.assert_allclose(got[:, ~out], losses.standardise(p[:, ~out]), rtol=1e-5)
    assert np.all(got[:, out] == np.float32(mask))
  # No gradient by T of a class that is ruled out, and none that is NaN.
  by_t = jax.grad(lambda T: losses.kl(np.where(out, -np.inf, p), np.where(out, -np.inf, q), T).sum())(2.0)
  np.testing.assert_allclose(
    by_t, jax.grad(lambda T: losses.kl(p[:, ~out], q[:, ~out], T).sum())(2.0), rtol=1e-5
  )


@pytest.mark.whole
def test_a_nan_stays_one():
  """It is never a loss of 0, which would hide a broken teacher."""
  bad = jnp.array([[1.0, jnp.nan, 2.0]])
  for value in (
    losses.kl(bad, jnp.ones((1, 3))),
    losses.soft_cross_entropy(bad, jnp.ones((1, 3))),
    losses.norm(bad),
    losses.unit(bad),
    losses.standardise(bad),
  ):
    assert np.isnan(value).all()


@pytest.mark.whole
@pytest.mark.optimised
def test_dtkd_at_logits_of_1e4():
  """Its temperatures fall to 1e-6, where a compiler's two ways to write one division differ by 1000."""
  rng, method = np.random.default_rng(0), dtkd()

  def loss(q, p):
    (total, count), _ = method.loss({}, {}, {'logits': q}, {'logits': p}, {}, step=0, rng=None)
    return total / count

  low, high = -np.abs(rng.normal(size=(4, 5))), rng.normal(size=(4, 5))
  label, flat = 2 * np.eye(5)[:4] - 1, -np.ones((4, 5))
  step = jax.value_and_grad(loss)
  compiled = jax.jit(step)
  for q, p in ((low, high), (high, low), (low, low), (flat, label), (label, flat)):
    value, grad = compiled(np.float32(1e4 * q), np.float32(1e4 * p))
    with jax.enable_x64(True):
      wanted, exact = step(np.float32(1e4 * q).astype(np.float64), np.float32(1e4 * p).astype(np.float64))
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(grad, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())


@pytest.mark.whole
@pytest.mark.parametrize('name', METHODS)
def test_products_of_taps_have_full_precision(name):
  """On a TPU a product has bfloat16's precision where nothing else is said; a layer's, by weights, may."""
  method = registry.make('methods', name, taps.needed(name))
  params, stats = jax.eval_shape(method.init, jax.random.key(0), S, T, BATCH)

  def loss(params, s, t):
    return method.loss(params, stats_, s, t, BATCH, step=0, rng=jax.random.key(0))[0][0]

  stats_ = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), stats)
  result = jax.make_jaxpr(loss)(params, S, T).jaxpr
  n = len(jax.tree.leaves(params))
  low = products(result, [i >= n for i in range(len(result.invars))])[1]
  assert not low, low


def products(jaxpr, of_taps):
  """(which results depend on taps, the products of two that do, of less than full precision)."""
  known = dict(zip(jaxpr.invars, of_taps, strict=True))

  def depends(x):
    return not isinstance(x, Literal) and known.get(x, False)

  low = []
  for eqn in jaxpr.eqns:
    inputs = [depends(x) for x in eqn.invars]
    out = [any(inputs)] * len(eqn.outvars)
    inner = [getattr(p, 'jaxpr', p) for p in eqn.params.values() if hasattr(getattr(p, 'jaxpr', p), 'eqns')]
    for sub in inner:
      if len(sub.invars) == len(inputs):
        results, more = products(sub, inputs)
        low += more
        out = results if len(results) == len(out) else out
    if eqn.primitive.name == 'dot_general' and all(inputs):
      highest = jax.lax.Precision.HIGHEST
      if eqn.params['precision'] not in (highest, (highest, highest)):
        low.append(str(eqn))
    known.update(zip(eqn.outvars, out, strict=True))
  return [depends(x) for x in jaxpr.outvars], low


@functools.cache
def anew(name, same, rows):
  """(value, gradients) of a method made for a student of the teacher's shapes, or for a few examples."""
  method = registry.make('methods', name, taps.needed(name))
  s, t, batch = (taps.rows(x, np.arange(rows)) for x in (T if same else S, T, BATCH))
  params, stats = method.init(jax.random.key(0), s, t, batch)

  def value(params, s, t, batch):
    (total, count), _ = method.loss(params, stats, s, t, batch, step=jnp.int32(0), rng=jax.random.key(0))
    return total / jnp.maximum(count, 1)

  return value, params, (s, t, batch)


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize('name', METHODS)
def test_a_student_that_is_the_teacher_and_a_batch_of_one(name):
  for same, rows in ((True, taps.B), (False, 1)):
    value, params, inputs = anew(name, same, rows)
    result, grads = jax.jit(jax.value_and_grad(value, (0, 1)))(params, *inputs)
    assert np.isfinite(result) and all(np.isfinite(x).all() for x in arrays(grads))


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize('name', METHODS)
def test_a_compiled_step_is_what_its_operations_are_one_by_one(name):
  value, params, _ = anew(name, False, taps.B)
  compiled = jax.jit(jax.value_and_grad(value, (0, 1, 2)))
  check_finite(name, functools.partial(compiled, params), CASES)
  for case in ('saturated and wrong', 'below zero', 'tiny', 'alike', 'one example'):
    inputs = CASES[case]
    np.testing.assert_allclose(
      compiled(params, *inputs)[0], value(params, *inputs), rtol=1e-4, atol=1e-5, err_msg=case
    )
