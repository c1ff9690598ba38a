"""Second writings of WKD and VkD, and PHI-S by hand."""

import jax
import numpy as np
import pytest
import second_writing
from scipy.linalg import expm
from scipy.optimize import linprog

from kdjax import registry
from kdjax.nn.hadamard import even_rotation, hadamard

B, C, RNG = 6, 4, np.random.default_rng(0)
LABEL = np.array([0, 3, 2, -1, 1, 3], np.int32)
BATCH = {'label': LABEL}
S = {'logits': RNG.normal(size=(B, C)), 'map': RNG.normal(size=(B, 3, 2, 3)), 'wide': RNG.normal(size=(B, 5))}
T = {
  'logits': 2 * RNG.normal(size=(B, C)),
  'embed': 3 * RNG.normal(size=(B, 5)) + 1,
  'map': 2 * RNG.normal(size=(B, 2, 3, 4)) + 1,
  'narrow': RNG.normal(size=(B, 3)),
}


def softmax(z):
  return np.exp(z - z.max()) / np.sum(np.exp(z - z.max()))


def class_costs(sharpen):
  unit = T['embed'] / np.linalg.norm(T['embed'], axis=1, keepdims=True)
  sums = np.stack([unit[c == LABEL].sum(0) for c in range(C)])
  means = sums / np.linalg.norm(sums, axis=1, keepdims=True)
  costs = 1 - np.exp(-sharpen * (1 - means @ means.T))
  np.fill_diagonal(costs, 0)
  return costs


def wkd(s, t, params, still, steps=7, blur=0.2):
  """With Sinkhorn's scaling vectors themselves, over the other classes alone."""
  values, costs = [], class_costs(1.5)
  for q, p, y in zip(s['logits'], t['logits'], LABEL, strict=True):
    if y < 0:
      continue
    others = [c for c in range(C) if c != y]
    a, b = softmax(q[others] / 2), softmax(p[others] / 2)
    cost = costs[np.ix_(others, others)]
    kernel, u = np.exp(-cost / blur), np.ones(C - 1)
    for _ in range(steps):
      v = b / (kernel.T @ u)
      u = a / (kernel @ v)
    plan = u[:, None] * kernel * v[None]
    values.append(-softmax(p)[y] * np.log(softmax(q)[y]) + 3 * np.sum(plan * cost))
  return np.mean(values)


def wkd_features(s, t, params, still):
  w, values = params['stage0'], []
  for a, b in zip(
    s['map'].reshape(B, -1, 3) @ w['kernel'] + w['bias'], t['map'].reshape(B, -1, 4), strict=True
  ):
    spread = [np.sqrt(x.var(0, ddof=1) + 1e-3) for x in (a, b)]
    values.append(2 * np.sum((a.mean(0) - b.mean(0)) ** 2) + np.sum((spread[0] - spread[1]) ** 2))
  return np.mean(values)


def vkd(s, t, params, still):
  total = 0
  for i, (a, b) in enumerate(((s['logits'], t['embed']), (s['wide'], t['narrow']))):
    w = params[f'skew{i}']
    target = (b - b.mean(1, keepdims=True)) / np.sqrt(b.var(1, keepdims=True) + 1e-5)
    d = np.abs(a @ expm(w - w.T)[: a.shape[1], : b.shape[1]] - target)
    total += np.mean(np.where(d < 1, d**2 / 2, d - 0.5))
  return total


OPTIONS = {
  'wkd': {'transport': 3.0, 'blur': 0.2, 'iterations': 7, 'sharpen': 1.5},
  'wkd_features': {'student': 'map', 'teacher': 'map', 'eps': 1e-3},
  'vkd': {'student': ('logits', 'wide'), 'teacher': ('embed', 'narrow')},
}


@pytest.mark.parametrize('name', OPTIONS)
def test_the_second_writing_and_its_gradient(name):
  method = registry.make('methods', name, OPTIONS[name])
  taps = {'wkd': ('logits',), 'wkd_features': ('map',), 'vkd': ('logits', 'wide')}[name]
  second_writing.check(method, globals()[name], {k: S[k] for k in taps}, T, BATCH)


@pytest.mark.parametrize('name', OPTIONS)
def test_finite_values_and_gradients(name):
  method = registry.make('methods', name, OPTIONS[name])
  t = {**T, 'embed': T['embed'][:, :4], 'wide': RNG.normal(size=(B, 5)), 'map': RNG.normal(size=(B, 3, 2, 3))}
  t['narrow'] = t['wide']
  if name == 'vkd':
    method = registry.make('methods', name, {'student': ('logits', 'wide'), 'teacher': ('embed', 'wide')})
    t['logits'] = S['logits']
  second_writing.check_finite(method, S, t, BATCH, zero_when_equal=False)


def test_transport_is_the_cheapest_plan():
  """With little entropy, the cost of the plan that linear programming finds."""
  a, b = (RNG.dirichlet(np.ones(5), 3) for _ in range(2))
  cost = np.abs(np.arange(5)[:, None] - np.arange(5)) / 4
  sinkhorn = registry.module('methods', 'wkd').sinkhorn
  found = sinkhorn(np.log(a), np.log(b), cost, 0.01, 400)
  rows, columns = np.kron(np.eye(5), np.ones(5)), np.kron(np.ones(5), np.eye(5))
  best = [
    linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([x, y])).fun
    for x, y in zip(a, b, strict=True)
  ]
  np.testing.assert_allclose(found, best, atol=5e-3)


def test_class_sums_do_not_depend_on_the_split():
  method = registry.make('methods', 'wkd', {})
  s, t = ({k: np.float32(v) for k, v in x.items()} for x in (S, T))
  _, stats = method.init(jax.random.key(0), s, t, BATCH)

  def after(parts):
    new, sums = stats, np.zeros(2)
    for rows in parts:
      pick = [{k: v[rows] for k, v in x.items()} for x in (s, t, BATCH)]
      (total, count), new = method.loss({}, new, *pick, step=0, rng=None)
      sums += float(total), float(count)
    return new['sum'], sums

  whole, parts = after([slice(None)]), after([slice(0, 2), slice(2, 6)])
  np.testing.assert_allclose(whole[0], parts[0], rtol=1e-5, atol=1e-6)
  assert whole[1][1] == 5


@pytest.mark.parametrize('n', [1, 2, 4, 12, 20, 28, 36, 64, 88, 384, 768])
def test_hadamard_matrices(n):
  h = hadamard(n)
  np.testing.assert_array_equal(h @ h.T, n * np.eye(n))
  assert set(np.unique(h)) <= {-1.0, 1.0}


@pytest.mark.parametrize('n', [3, 6, 7, 52])
def test_where_there_is_none_a_rotation_spreads_all_the_same(n):
  assert hadamard(n) is None
  r = even_rotation(n)
  np.testing.assert_allclose(r @ r.T, np.eye(n), atol=1e-10)
  assert np.abs(r).max() < np.sqrt(2.01 / n)


def phi_s_after(t, estimate, mask=None):
  """(method, params, stats) after the steps of the estimate, of three batches a step."""
  method = registry.make('methods', 'phi_s', {'teachers': ('a', 'b'), 'estimate': estimate, 'hidden': 4})
  s = {'embed': np.float32(RNG.normal(size=(40, 3)))}
  params, stats = method.init(jax.random.key(0), s, t, {})
  batch = {} if mask is None else {'mask': mask}
  for step in range(estimate):
    (total, count), stats = method.loss(params, stats, s, t, batch, step=step, rng=None)
    assert total > 0 and count == (40 if mask is None else mask.sum())
  return method, params, stats, s


def test_phi_s_gives_every_value_variance_one():
  mix = np.float32(RNG.normal(size=(8, 8)) * np.array([30, 10, 3, 1, 1, 0.1, 0.1, 0.01]))
  t = {'a': np.float32(RNG.normal(size=(40, 8))) @ mix + 100, 'b': np.float32(RNG.normal(size=(40, 4)))}
  method, params, stats, s = phi_s_after(t, 3)
  (total, count), new = method.loss(params, stats, s, t, {}, step=3, rng=None)
  for i, name in enumerate(('a', 'b')):
    kept = new[f'teacher{i}']
    x = (t[name] - kept['mean']) @ np.asarray(kept['map']).T
    np.testing.assert_allclose(x.var(0, ddof=1), 1, rtol=0.06)  # three times the same rows, less one
    angles = np.asarray(kept['map']) @ np.asarray(kept['map']).T
    np.testing.assert_allclose(angles, angles[0, 0] * np.eye(len(angles)), atol=1e-4 * angles[0, 0])
  assert total > 0 and count == 40
  _, later = method.loss(params, new, s, {k: 2 * v for k, v in t.items()}, {}, step=4, rng=None)
  np.testing.assert_array_equal(later['teacher0']['map'], new['teacher0']['map'])  # it stays


def test_padding_is_no_part_of_the_estimate():
  t = {'a': np.float32(RNG.normal(size=(40, 8))), 'b': np.float32(RNG.normal(size=(40, 4)))}
  mask = np.float32(np.arange(40) < 30)
  method, params, stats, s = phi_s_after(t, 2, mask)
  other = {k: np.where(mask[:, None] > 0, v, 7) for k, v in t.items()}
  start = method.init(jax.random.key(0), s, t, {})[1]
  for step in range(2):
    _, start = method.loss(params, start, s, other, {'mask': mask}, step=step, rng=None)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stats, start)
