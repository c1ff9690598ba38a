"""Second writings of the relations that no golden vector makes."""

import math

import jax
import numpy as np
import pytest
import second_writing

from kdjax import registry
from kdjax.errors import KdjaxError

B, RNG = 5, np.random.default_rng(0)
BATCH = {'label': np.zeros(B, np.int32)}


def taps(width):
  shapes = {
    'embed': (B, width),
    'logits': (B, 4),
    'image/stage2': (B, 4, 4, width),
    'image/stage3': (B, 2, 2, 2 * width),
  }
  return {k: RNG.normal(size=shape) for k, shape in shapes.items()}


S, T = taps(2), taps(3)
S32, T32 = ({k: v.astype(np.float32) for k, v in x.items()} for x in (S, T))


def embeddings(s, t, params):
  return tuple(
    x['embed'] @ params[side]['kernel'] + params[side]['bias'] for side, x in (('student', s), ('teacher', t))
  )


def cc_rd(s, t, params, still):
  e, f = embeddings(s, t, params)
  values = [abs(e[i] - f[i]) @ abs(e[j] - f[j]) for i in range(B) for j in range(B) if i != j]
  return np.mean(values)


def kernel(x, y, gamma, order):
  return sum(
    np.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * (x @ y) ** p for p in range(order + 1)
  )


def cc_taylor(s, t, params, still):
  a, b = ([v / np.linalg.norm(v) for v in x['embed']] for x in (s, t))
  values = [
    (kernel(a[i], a[j], 0.3, 3) - kernel(b[i], b[j], 0.3, 3)) ** 2 for i in range(B) for j in range(B)
  ]
  return np.mean(values)


def cckd(k):
  def writing(s, t, params, still):
    e, f = embeddings(s, t, params)
    return math.sqrt(sum((k(e[i], e[j]) - k(f[i], f[j])) ** 2 for i in range(B) for j in range(B))) / B**2

  return writing


def irg(s, t, params, still):
  def edges(x):
    d = np.array([[np.sum((x[i] - x[j]) ** 2) for j in range(B)] for i in range(B)])
    return d / d.max()

  def shift(x):
    first, second = x['image/stage2'], x['image/stage3']
    moved = np.zeros(B)
    for i in range(B):
      for y in range(2):
        for z in range(2):
          for c in range(first.shape[-1]):
            pooled = first[i, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2, c].mean()
            moved[i] += (pooled - second[i, y, z, 2 * c : 2 * c + 2].mean()) ** 2
    return moved / moved.max()

  vertex = np.mean((s['logits'] - t['logits']) ** 2)
  edge = [np.mean((edges(s[k]) - edges(t[k])) ** 2) for k in ('image/stage2', 'image/stage3', 'embed')]
  return 0.1 * vertex + 5 * np.mean(edge) + 5 * np.mean((shift(s) - shift(t)) ** 2)


def ickd(s, t, params, still):
  x = s['image/stage3'] @ params['conv']['kernel'][0, 0]
  x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
  x = x * params['bn']['scale'] + params['bn']['bias']

  def correlation(m):
    m = m.reshape(4, -1)
    return [row / np.linalg.norm(row) for row in m.T @ m]

  values = []
  for a, b in zip(x, t['image/stage3'], strict=True):
    values += [np.sum((p - q) ** 2) for p, q in zip(correlation(a), correlation(b), strict=True)]
  return np.mean(values)


WRITINGS = [
  ('cc_rd', {'dim': 3}, ['embed'], cc_rd),
  ('cc_taylor', {'gamma': 0.3, 'order': 3}, ['embed'], cc_taylor),
  ('cckd', {'dim': 3, 'gamma': 0.3}, ['embed'], cckd(lambda x, y: kernel(x, y, 0.3, 2))),
  ('cckd', {'dim': 3, 'kernel': 'bilinear'}, ['embed'], cckd(lambda x, y: x @ y)),
  ('irg', {}, list(S), irg),
  ('ickd', {}, ['image/stage3'], ickd),
]
VARIANTS = [
  ('cc_rd', {'pairs': 'consecutive'}),
  ('cc_rd', {'dim': None, 'student': 'logits', 'teacher': 'logits'}),
  ('cckd', {'kernel': 'bilinear'}),
  *((name, {}) for name, path in registry.names('methods').items() if path.split('.')[2] == 'relations'),
]
LEARNED = {'cc_rd', 'cckd', 'ickd'}  # equal taps are not equal behind their layers


@pytest.mark.parametrize('name,options,keys,writing', WRITINGS)
def test_the_second_writing_and_its_gradient(name, options, keys, writing):
  method = registry.make('methods', name, options)
  second_writing.check(method, writing, {k: S[k] for k in keys}, T, BATCH)


@pytest.mark.parametrize('name,options', VARIANTS)
def test_it_stays_finite(name, options):
  method = registry.make('methods', name, options)
  zero = name not in LEARNED or options.get('dim', 0) is None
  second_writing.check_finite(method, S, T, BATCH, zero)


def test_one_embedding_for_two_equal_taps_gives_zero():
  for name in ('cc_rd', 'cckd'):
    method = registry.make('methods', name, {})
    params, stats = method.init(jax.random.key(1), T32, T32, BATCH)
    shared = {side: params['student'] for side in params}
    assert second_writing.loss(method, shared, stats, T32, T32, BATCH) == 0


def test_what_does_not_fit_is_said():
  with pytest.raises(KdjaxError, match='Choose from: all, consecutive'):
    registry.make('methods', 'cc_rd', {'pairs': 'some'})
  with pytest.raises(KdjaxError, match='Choose from: gaussian, bilinear'):
    registry.make('methods', 'cckd', {'kernel': 'gausian'})
  with pytest.raises(KdjaxError, match='2 and 1'):
    registry.make('methods', 'irg', {'student': ('embed', 'logits'), 'teacher': ('logits',)})
  backwards = ('image/stage3', 'image/stage2', 'logits')
  method = registry.make('methods', 'irg', {'student': backwards, 'teacher': backwards})
  with pytest.raises(KdjaxError, match='a multiple of the channels'):
    method.loss({}, {}, S32, T32, BATCH, step=0, rng=None)
  method = registry.make('methods', 'ickd', {'student': 'embed'})
  with pytest.raises(KdjaxError, match='two maps'):
    method.init(jax.random.key(0), S32, T32, BATCH)
