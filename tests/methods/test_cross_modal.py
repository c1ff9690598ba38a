"""Second writings of the cross-modal methods that no golden vector makes in full."""

import jax
import numpy as np
import pytest
import second_writing

from kdjax import registry
from kdjax.errors import KdjaxError

B, C, RNG = 6, 4, np.random.default_rng(0)
LABEL = np.array([0, 3, 2, -1, 1, 3], np.int32)
BATCH = {'label': LABEL}


def taps(width):
  shapes = {'logits': (B, C), 'embed': (B, width)}
  for modality in ('image', 'text'):
    shapes |= {f'{modality}/class_logits': (B, C), f'{modality}/embed': (B, width)}
  return {k: RNG.normal(size=shape) for k, shape in shapes.items()}


S, T = taps(2), taps(3)


def log_softmax(z):
  return z - np.log(np.sum(np.exp(z)))


def kl(p, q):
  p, q = log_softmax(p), log_softmax(q)
  return np.exp(p) @ (p - q)


def kendall(x, y):
  both = [np.sign((x[i] - x[j]) * (y[i] - y[j])) for i in range(C) for j in range(i)]
  return np.mean(both)  # there are no ties


def proxy(x, layers):
  x = x @ layers['in']['kernel']
  x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * layers['bn']['scale'] + layers['bn']['bias']
  x = np.where(x > 0, x, 0.1 * x)
  return x @ layers['out']['kernel'] + layers['out']['bias']


def c2kd(proxies, threshold):
  def writing(s, t, params, still):
    def both(s, params):
      if not proxies:
        return s['logits'], t['logits']
      return proxy(s['embed'], params['student']), proxy(t['embed'], params['teacher'])

    (q, p), (q_still, p_still), total = both(s, params), both(*still), 0
    for i, y in enumerate(LABEL):
      if y >= 0 and kendall(q_still[i], p_still[i]) > threshold:
        remaining = np.arange(C) != y
        total += kl(p_still[i, remaining] / 2, q[i, remaining] / 2)
        total += kl(q_still[i, remaining] / 2, p[i, remaining] / 2) if proxies else 0
      if proxies:
        total += kl(still[0]['logits'][i], q[i]) + kl(q_still[i], s['logits'][i])
        total += kl(t['logits'][i], p[i])
    return total / B

  return writing


def dmd(students, teachers, prior, regularise, apart):
  def writing(s, t, params, still):
    def dense(name, x):
      return x @ params[name]['kernel'] + params[name]['bias']

    def nodes(s):
      result = [('student', s, m) for m in students] + [('teacher', t, m) for m in teachers]
      return [(whose, x[f'{m}/class_logits'], x[f'{m}/embed']) for whose, x, m in result]

    live, fixed, total = nodes(s), nodes(still[0]), 0
    edges = [(j, i) for j in range(len(students)) for i in range(len(live)) if i != j]
    weights = np.zeros((B, len(edges)))
    for b in range(B):
      z = [np.concatenate([dense('scores', x[b]), dense(whose, e[b])]) for whose, x, e in live]
      strength = [dense('edge', np.concatenate([z[j], z[i]]))[0] for j, i in edges]
      weights[b] = np.exp(log_softmax(np.array(strength) / 8))
      for k, (j, i) in enumerate(edges):
        (_, x, e), (_, y, f) = live[j], fixed[i]
        cosine = e[b] @ f[b] / np.linalg.norm(e[b]) / np.linalg.norm(f[b]) if apart else 0
        total += (weights[b, k] + prior[k]) * (sum(abs(x[b] - y[b])) + apart * max(0, cosine)) / B
    return total + regularise * sum((weights.mean(0) - prior) ** 2)

  return writing


def scale_invariant(s, t, params, still):
  d = s['logits'] - t['logits']
  return np.mean([np.mean(row**2) - np.mean(row) ** 2 for row in d])


GRAPH = ['image/class_logits', 'image/embed', 'text/class_logits', 'text/embed']
WRITINGS = [
  ('c2kd', {'temperature': 2, 'proxies': False, 'threshold': 0.2}, ['logits'], c2kd(False, 0.2)),
  ('c2kd', {'temperature': 2}, ['logits', 'embed'], c2kd(True, 0)),
  ('dmd', {'dim': 2}, GRAPH, dmd(('image', 'text'), (), [0.5, 0.5], 10, 0)),
  ('dmd', {'dim': 2, 'apart': 10}, GRAPH, dmd(('image', 'text'), (), [0.5, 0.5], 10, 10)),
  (
    'dmd',
    {'dim': 2, 'student': ('image',), 'teacher': ('image', 'text'), 'prior': (0.2, 0.8), 'regularise': 3},
    GRAPH[:2],
    dmd(('image',), ('image', 'text'), [0.2, 0.8], 3, 0),
  ),
  ('alignment', {'distance': 'scale_invariant'}, ['logits'], scale_invariant),
]
VARIANTS = [
  ('c2kd', {'proxies': False}),
  ('c2kd', {'proxies': False, 'keep_target': True}),
  ('dmd', {'apart': 10.0}),
  *(('alignment', {'distance': distance}) for distance in ('scale_invariant', 'mean', 'norm')),
  *((name, {}) for name, path in registry.names('methods').items() if path.split('.')[2] == 'cross_modal'),
]
NOT_ZERO = {'c2kd', 'dmd', 'g2d', 'orthogonality'}  # of equal taps: proxies, others' scores, a push apart


@pytest.mark.parametrize('name,options,keys,writing', WRITINGS)
def test_the_second_writing_and_its_gradient(name, options, keys, writing):
  method = registry.make('methods', name, options)
  second_writing.check(method, writing, {k: S[k] for k in keys}, T, BATCH)


@pytest.mark.parametrize('name,options', VARIANTS)
def test_it_stays_finite(name, options):
  method = registry.make('methods', name, options)
  zero = name not in NOT_ZERO or 'proxies' in options
  second_writing.check_finite(method, S, T, BATCH, zero)


def test_orthogonal_embeddings_cost_nothing():
  method, shift = registry.make('methods', 'orthogonality', {}), np.array([1, -1, 1, -1], np.float32)
  other = np.array([1, 1, -1, -1], np.float32)
  s, t = {'embed': shift[:, None]}, {'embed': other[:, None] * np.ones((1, 3), np.float32)}
  assert second_writing.loss(method, {}, {}, s, t, {}) < 1e-12
  assert second_writing.loss(method, {}, {}, s, s, {}) > 1


def test_what_does_not_fit_is_said():
  with pytest.raises(KdjaxError, match='Choose from: mse'):
    registry.make('methods', 'alignment', {'distance': 'mes'})
  with pytest.raises(KdjaxError, match='name at least one that teaches another'):
    registry.make('methods', 'dmd', {'student': ('image',)})
  with pytest.raises(KdjaxError, match='2 edges .* the prior 3 entries'):
    registry.make('methods', 'dmd', {'prior': (0.1, 0.2, 0.7)})
  for options in ({'logits': 'embed'}, {'apart': 10}):
    method = registry.make('methods', 'dmd', {'teacher': ('image',)} | options)
    with pytest.raises(KdjaxError, match='of one shape from every modality'):
      method.init(jax.random.key(0), S, T, BATCH)
