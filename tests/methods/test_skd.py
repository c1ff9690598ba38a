"""Streamlined distillation against its writing in plain NumPy."""

import jax
import numpy as np
import pytest
import second_writing

from kdjax import registry
from kdjax.errors import KdjaxError

B, C, RNG = 6, 4, np.random.default_rng(0)
MASK = np.array([1, 1, 0, 1, 1, 1], np.float32)
REAL = np.flatnonzero(MASK)
BATCH = {'label': np.zeros(B, np.int32), 'mask': MASK}
S, T = ({'logits': 2 * RNG.normal(size=(B, C))} for _ in range(2))


def softmax(z):
  return np.exp(z) / np.sum(np.exp(z))


def skd(s, t, params, still):
  q, p = s['logits'][REAL], t['logits'][REAL]
  grams = [[[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in x] for a in x] for x in (q, p)]
  d = np.array(grams[0]) - grams[1]
  inverse = np.linalg.inv(np.cov(d.T) + 0.1 * np.eye(len(d)))
  values = []
  for a, b, row in zip(q, p, d, strict=True):
    p, q = softmax(b / 4), softmax(a / 4)
    values.append(p @ np.log(p / q) + 3 * np.sqrt(row @ inverse @ row))
  return np.mean(values)


def test_the_second_writing_and_its_gradient():
  second_writing.check(registry.make('methods', 'skd', {'direction': 3.0}), skd, S, T, BATCH)


def test_it_stays_finite():
  second_writing.check_finite(registry.make('methods', 'skd', {}), S, T, BATCH, True)


def test_the_direction_alone_is_free_of_scale():
  method = registry.make('methods', 'skd', {'direction': 1.0})
  plain = registry.make('methods', 'skd', {'direction': 0.0})

  def direction(factor):
    s = {'logits': np.float32(factor * S['logits'])}
    t = {'logits': np.float32(T['logits'])}
    return [second_writing.loss(m, {}, {}, s, t, BATCH) for m in (method, plain)]

  (a, b), (c, d) = direction(1), direction(7)
  np.testing.assert_allclose(a - b, c - d, rtol=1e-4)
  assert abs(b - d) > 0.1


def test_a_sequence_of_logits_is_refused():
  x = {'logits': np.zeros((B, 3, C), np.float32)}
  with pytest.raises(KdjaxError, match=r'\[6, 3, 4\]'):
    jax.eval_shape(lambda: registry.make('methods', 'skd', {}).loss({}, {}, x, x, BATCH, step=0, rng=None))
