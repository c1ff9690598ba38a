"""Attention-based feature distillation against its writing in plain NumPy."""

import jax
import numpy as np
import pytest
import second_writing

from kdjax import registry
from kdjax.errors import KdjaxError

B, DIM, RNG = 4, 2, np.random.default_rng(0)
MASK = np.array([1, 1, 0, 1], np.float32)
REAL = np.flatnonzero(MASK)
BATCH = {'label': np.zeros(B, np.int32), 'mask': MASK}
S = {'a': RNG.normal(size=(B, 3, 3, 2)), 'b': RNG.normal(size=(B, 2, 2, 1))}
T = {'c': RNG.normal(size=(B, 2, 2, 3)), 'd': RNG.normal(size=(B, 3, 3, 2))}
OPTIONS = {'dim': DIM, 'student': tuple(S), 'teacher': tuple(T)}


def embed(x, params, name):
  """Linear, then batch norm over all axes but the last."""
  x = x @ params[name]['kernel'] + params[name]['bias']
  axes, p = tuple(range(x.ndim - 1)), params[f'{name}_norm']
  return (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * p['scale'] + p['bias']


def place(x, size):
  """Squares of maps, pooled as adaptive average pooling does, at length 1."""
  x = (x**2).mean(-1)
  for axis, m in enumerate(size, 1):
    n = x.shape[axis]
    windows = [range(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
    x = np.stack([x.take(w, axis).mean(axis) for w in windows], axis)
  x = x.reshape(len(x), -1)
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def afd(s, t, params, still):
  a, b = ([x[REAL] for x in side.values()] for side in (s, t))
  keys = np.stack([np.maximum(embed(x.mean((1, 2)), params, f'key{i}'), 0) for i, x in enumerate(a)], 1)
  keys = embed(keys, params, 'bilinear').reshape(len(REAL), len(a), len(b), DIM)
  total = 0
  for i, y in enumerate(b):
    query, size = embed(y.mean((1, 2)), params, f'query{i}'), y.shape[1:3]
    places = params['student_place'] @ params['teacher_place'][i]
    alpha = [np.exp(((query * keys[:, j, i]).sum(-1) + places[j]) / DIM**0.5) for j in range(len(a))]
    for w, x in zip(alpha, a, strict=True):
      total += w / sum(alpha) * ((place(x, size) - place(y, size)) ** 2).mean(-1)
  return total.mean()


def test_the_second_writing_and_its_gradient():
  second_writing.check(registry.make('methods', 'afd', OPTIONS), afd, S, T, BATCH)


def test_it_stays_finite():
  method = registry.make('methods', 'afd', {'dim': DIM, 'student': ('a',), 'teacher': ('a',)})
  second_writing.check_finite(method, {'a': S['a']}, {'a': T['d']}, BATCH, True)


def test_tokens_are_refused():
  method = registry.make('methods', 'afd', OPTIONS)
  s = S | {'a': S['a'].reshape(B, 9, 2)}
  with pytest.raises(KdjaxError, match=r"'a' is \[4, 9, 2\]"):
    method.init(jax.random.key(0), s, T, BATCH)
