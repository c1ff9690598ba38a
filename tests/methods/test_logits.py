"""Methods on class scores: second writings in plain NumPy of those that no golden vector makes.

Each takes the student's taps twice: `s`, and `fixed` for what carries no gradient, so that the
difference quotient of the writing is the gradient of the method.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from second_writing import quotients

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.training.schemes.dot import dot

B, C = 6, 5
LABEL = np.array([0, 3, 2, 4, 1, 3], np.int32)
RNG = np.random.default_rng(0)
S = {
  'logits': 2 * RNG.normal(size=(B, C)),
  'strong': RNG.normal(size=(B, C)),
  'embed': RNG.normal(size=(B, 3)),
}
T = {
  'logits': 2 * RNG.normal(size=(B, C)),
  'strong': RNG.normal(size=(B, C)),
  'embed': RNG.normal(size=(B, 4)),
}
T['weights/head/linear/kernel'] = np.random.default_rng(1).normal(size=(1, 4, C))
STRONG = {'student_strong': 'strong', 'teacher_strong': 'strong'}


def softmax(z):
  e = np.exp(z - z.max())
  return e / e.sum()


def kl(p, q):
  return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


def softened(t, s, tau):
  return tau**2 * kl(softmax(t / tau), softmax(s / tau))


def cross_entropy(p, q):
  return -sum(a * np.log(b) for a, b in zip(p, q, strict=True))


def rows(s, t, fixed):
  return zip(s['logits'], t['logits'], fixed['logits'], LABEL, strict=True)


def mlkd(s, t, fixed, params):
  total = 0
  for tau in (4, 3, 5, 2, 6):
    for view in ('logits', 'strong'):
      total += np.mean([softened(b, a, tau) for a, b in zip(s[view], t[view], strict=True)])
    p, q = (np.stack([softmax(z / tau) for z in x['logits']]) for x in (t, s))
    for i in range(C):
      for j in range(C):
        total += (p[:, i] @ p[:, j] - q[:, i] @ q[:, j]) ** 2 / C
    for i in range(B):
      for j in range(B):
        total += (p[i] @ p[j] - q[i] @ q[j]) ** 2 / B
  return total


def wsld(s, t, fixed, params):
  values = []
  for a, b, f, y in rows(s, t, fixed):
    weight = 1 - np.exp(-np.log(softmax(f)[y]) / (np.log(softmax(b)[y]) - 1e-7))
    values.append(4 * weight * cross_entropy(softmax(b / 2), softmax(a / 2)))
  return np.mean(values)


def srd(s, t, fixed, params):
  total = 0
  projected = s['embed'] @ params['kernel'] + params['bias']
  for a, b in zip(projected.T, t['embed'].T, strict=True):
    a, b = ((x - x.mean()) / np.sqrt(x.var() + 1e-4) for x in (a, b))
    total += sum(abs(a - b) ** 4)
  soft = np.mean([softened(b, a, 1) for a, b, _, _ in rows(s, t, fixed)])
  return 2 * np.log(total) + soft


def label_smoothing_teacher(s, t, fixed, params):
  values = []
  for a, _, _, y in rows(s, t, fixed):
    u = np.full(C, 0.01 / (C - 1))
    u[y] = 0.99
    values.append(kl(softmax(u / 20), softmax(a)))
  return np.mean(values)


def multi_label(s, t, fixed, params):
  values = []
  for a, b, _, _ in rows(s, t, fixed):
    p, q = 1 / (1 + np.exp(-b / 2)), 1 / (1 + np.exp(-a / 2))
    values.append(4 * sum(kl([x, 1 - x], [y, 1 - y]) for x, y in zip(p, q, strict=True)))
  return np.mean(values)


def dynamic_temperature(weight):
  def writing(s, t, fixed, params):
    w = [weight(f, b) for _, b, f, _ in rows(s, t, fixed)]
    taus = [max(4 + (np.mean(w) - x) * 1.5, 3.5) for x in w]
    values = [
      cross_entropy(softmax(b / tau), softmax(a / tau))
      for (a, b, _, _), tau in zip(rows(s, t, fixed), taus, strict=True)
    ]
    return np.mean(values)

  return writing


def focal(a, b):
  return (1 - a @ b / (np.linalg.norm(a) + 1e-4) / (np.linalg.norm(b) + 1e-4)) ** 2


def dtkd(s, t, fixed, params):
  values = []
  for a, b, _, _ in rows(s, t, fixed):
    x, y = max(a.max(), 1e-3), max(b.max(), 1e-3)
    one, other = 8 * x / (x + y), 8 * y / (x + y)
    values.append(one * other * kl(softmax(b / other), softmax(a / one)))
  return np.mean(values)


def weighted(weight, normalise=False):
  def writing(s, t, fixed, params):
    w = [weight(f, b, y) for _, b, f, y in rows(s, t, fixed)]
    values = [softened(b, a, 4) for a, b, _, _ in rows(s, t, fixed)]
    return np.dot(w, values) / (sum(w) if normalise else B)

  return writing


def distance(f, target):
  return 0.5 * sum(abs(softmax(f) - target))


def entropy(b):
  return cross_entropy(softmax(b / 4), softmax(b / 4))


def ttm(weighted):
  def writing(s, t, fixed, params):
    values = []
    for a, b, _, _ in rows(s, t, fixed):
      p = softmax(b) ** 0.2
      values.append((p.sum() if weighted else 1) * kl(p / p.sum(), softmax(a)))
    return np.mean(values)

  return writing


def rld(s, t, fixed, params):
  values = []
  for a, b, _, y in rows(s, t, fixed):
    p, q = max(softmax(b / 2)), softmax(a / 2)[y]
    value = 4 * kl([p, 1 - p], [q, 1 - q])
    below = [i for i in range(C) if b[i] < b[y]]
    if below:
      value += 8 * softened(b[below], a[below], 3)
    values.append(value)
  return np.mean(values)


def abkd(alpha, beta):
  def writing(s, t, fixed, params):
    values, total = [], alpha + beta
    for a, b, _, _ in rows(s, t, fixed):
      p, q = softmax(b / 2), softmax(a / 2)
      part = -(p**alpha) * q**beta + alpha / total * p**total + beta / total * q**total
      values.append(4 * sum(part) / (alpha * beta))
    return np.mean(values)

  return writing


def abkd_corner(alpha, beta):
  """The divergence at 0 is the limit, by Cichocki's equations written out."""

  def writing(s, t, fixed, params):
    values = []
    for a, b, _, _ in rows(s, t, fixed):
      p, q = softmax(b / 2), softmax(a / 2)
      if alpha:
        x, y = p**alpha, q**alpha
        value = sum(x * np.log(x / y) - x + y) / alpha**2
      elif beta:
        x, y = p**beta, q**beta
        value = sum(y * np.log(y / x) - y + x) / beta**2
      else:
        value = 0.5 * sum((np.log(p) - np.log(q)) ** 2)
      values.append(4 * value)
    return np.mean(values)

  return writing


def taid(s, t, fixed, params):
  mixed = [0.5 * f + 0.5 * b for _, b, f, _ in rows(s, t, fixed)]
  return np.mean([kl(softmax(m), softmax(a)) for m, a in zip(mixed, s['logits'], strict=True)])


def ofa_kd(s, t, fixed, params):
  def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

  hidden = gelu(s['embed'] @ params['hidden0/kernel'] + params['hidden0/bias'])
  exits = hidden @ params['exit0/kernel'] + params['exit0/bias']
  values = []
  for a, b, e, y in zip(s['logits'], t['logits'], exits, LABEL, strict=True):
    target = np.eye(C)[y]
    weights = (softmax(b / 2) + target) ** 1.5 - target
    values.append(-sum(weights * (np.log(softmax(a / 2)) + 0.5 * np.log(softmax(e / 2)))))
  return np.mean(values)


def plan_cost(p, q, costs, regularisation, iterations):
  """Sinkhorn's algorithm on the plain numbers, as its authors write it."""
  kernel = np.exp(-costs / regularisation)
  u = np.ones(len(p))
  for _ in range(iterations):
    v = q / (kernel.T @ u)
    u = p / (kernel @ v)
  return np.sum(u[:, None] * kernel * v * costs)


def prototype_costs(x, sharpness):
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  return 1 - np.exp(-sharpness * (1 - x @ x.T))


def class_means(t):
  means = [t['embed'][np.equal(LABEL, c)] for c in range(C)]
  means = [x.mean(0) if len(x) else np.full(4, np.nan) for x in means]
  return means - np.nanmean(means, 0)


def wkd(costs, separate=True):
  def writing(s, t, fixed, params):
    values = []
    for a, b, _, y in rows(s, t, fixed):
      others = [c for c in range(C) if c != y or not separate]
      matrix = costs(t)[np.ix_(others, others)]
      moved = plan_cost(softmax(a[others] / 3), softmax(b[others] / 3), matrix, 0.2, 4)
      values.append(7 * moved - separate * softmax(b)[y] * np.log(softmax(a)[y]))
    return np.mean(values)

  return writing


COSTS = np.abs(np.subtract.outer([0.1, 0.9, 0.5, 0.3, 0.75], [0.2, 0.8, 0.45, 0.3, 0.7]))
WKD = {'transport': 7.0, 'temperature': 3, 'regularisation': 0.2, 'iterations': 4, 'sharpness': 0.8}


WRITINGS = {  # name -> (method, options, writing)
  'wkd': ('wkd', WKD | {'costs': COSTS.tolist()}, wkd(lambda t: COSTS)),
  'wkd of all classes': (
    'wkd',
    WKD | {'costs': COSTS.tolist(), 'separate': False},
    wkd(lambda t: COSTS, separate=False),
  ),
  'wkd of prototypes': ('wkd', WKD, wkd(lambda t: prototype_costs(class_means(t), 0.8))),
  'wkd of a classifier': (
    'wkd',
    WKD | {'classifier': 'weights/head/linear/kernel'},
    wkd(lambda t: prototype_costs(t['weights/head/linear/kernel'][0].T, 0.8)),
  ),
  'mlkd': ('mlkd', STRONG, mlkd),
  'wsld': ('wsld', {}, wsld),
  'srd': ('srd', {}, srd),
  'label_smoothing_teacher': ('label_smoothing_teacher', {}, label_smoothing_teacher),
  'multi_label': ('multi_label', {'temperature': 2}, multi_label),
  'flsw': ('flsw', {'beta': 1.5, 'minimum': 3.5}, dynamic_temperature(focal)),
  'cwsm': (
    'cwsm',
    {'beta': 1.5, 'minimum': 3.5},
    dynamic_temperature(lambda a, b: 1 / (max(softmax(a)) + 1e-3)),
  ),
  'dtkd': ('dtkd', {}, dtkd),
  'ttm': ('ttm', {}, ttm(False)),
  'wttm': ('ttm', {'weighted': True}, ttm(True)),
  'rld': ('rld', {'temperature': 3, 'confidence_temperature': 2}, rld),
  'abkd': ('abkd', {'alpha': 0.3, 'beta': 1.2, 'temperature': 2}, abkd(0.3, 1.2)),
  'abkd near KL': ('abkd', {'alpha': 1, 'beta': 0, 'temperature': 2}, abkd_corner(1, 0)),
  'abkd of alpha': ('abkd', {'alpha': 0.7, 'beta': 0, 'temperature': 2}, abkd_corner(0.7, 0)),
  'abkd of beta': ('abkd', {'alpha': 0, 'beta': 0.7, 'temperature': 2}, abkd_corner(0, 0.7)),
  'abkd of neither': ('abkd', {'alpha': 0, 'beta': 0, 'temperature': 2}, abkd_corner(0, 0)),
  'taid': ('taid', {'first': 0.5}, taid),
  'ofa_kd': ('ofa_kd', {'features': 'embed', 'temperature': 2, 'exits': 0.5, 'width': 4}, ofa_kd),
  'confidence': ('confidence', {}, weighted(lambda f, b, y: max(softmax(b)), True)),
  'confidence label': ('confidence', {'measure': 'label'}, weighted(lambda f, b, y: softmax(b)[y], True)),
  'confidence entropy': (
    'confidence',
    {'measure': 'entropy', 'normalise': False},
    weighted(lambda f, b, y: entropy(b)),
  ),
  'difficulty': ('difficulty', {}, weighted(lambda f, b, y: distance(f, softmax(b)) ** 2)),
  'difficulty label': (
    'difficulty',
    {'measure': 'label', 'gamma': 3},
    weighted(lambda f, b, y: (1 - softmax(f)[y]) ** 3),
  ),
  'difficulty easy': (
    'difficulty',
    {'order': 'easy', 'initial_pace': 0.4, 'steps': 20},
    weighted(lambda f, b, y: distance(f, softmax(b)) <= 0.55),  # 0.4 + 0.6 · 5 / 20
  ),
}

# Every method of the family with its defaults, and options that take another way.
VARIANTS = [
  ('kd', {'standardise': True}),
  ('dkd', {'standardise': True}),
  ('ctkd', {'standardise': True}),
  ('dist', {'temperature': 4}),
  ('euclidean', {'logsoftmax': True}),
  ('mlkd', {'standardise': True, 'released': True} | STRONG),
  ('difficulty', {'order': 'easy', 'measure': 'label'}),
  *(
    (name, {})
    for name, path in sorted(registry.names('methods').items())
    if path.split('.')[2] in ('logits', 'dynamic')
  ),
]
# Of the rest, the loss is 0 where student and teacher agree.
NOT_ZERO = {
  'wkd',
  'hard_label',
  'label_smoothing_teacher',
  'nkd',
  'soft_cross_entropy',
  'wsld',
  'srd',
  'flsw',
  'cwsm',
  'rld',
  'ttm',
}


def value(method, params, s, t, batch, step=0):
  _, stats = jax.eval_shape(method.init, jax.random.key(0), s, t, batch)
  _, stats = method.init(jax.random.key(0), s, t, batch) if stats else ({}, {})
  (total, count), _ = method.loss(params, stats, s, t, batch, step=step, rng=jax.random.key(0))
  return total / jnp.maximum(count, 1)


@pytest.mark.parametrize('name', WRITINGS)
def test_the_second_writing_and_its_gradient(name):
  entry, options, writing = WRITINGS[name]
  with jax.enable_x64(True):
    method, batch = registry.make('methods', entry, options), {'label': LABEL}
    params, _ = method.init(jax.random.key(1), S, T, batch)
    params = flatten_dict(jax.tree.map(lambda x: np.asarray(x, np.float64), params), sep='/')

    def loss(params, s):
      return value(method, unflatten_dict(params, sep='/'), s, T, batch, step=5)

    function = jax.jit(jax.value_and_grad(loss, (0, 1)))
    result, grads = function(params, S)
    np.testing.assert_allclose(result, writing(S, T, S, params), rtol=1e-10)
    for tree, grad in zip((params, S), grads, strict=True):
      for key, x in tree.items():
        moved = {k: v.copy() for k, v in tree.items()}
        arguments = (S, T, S, moved) if tree is params else (moved, T, S, params)
        wanted = quotients(lambda a=arguments: writing(*a), moved[key])
        np.testing.assert_allclose(
          grad[key], wanted, rtol=1e-5, atol=1e-8, err_msg=f'{name}: {key} {x.shape}'
        )


@pytest.mark.parametrize('name,options', VARIANTS)
def test_it_stays_finite(name, options):
  method = registry.make('methods', name, options)
  s = {k: v.astype(np.float32) for k, v in S.items()}
  t = {k: v.astype(np.float32) for k, v in T.items()}
  batch, padding = ({'label': LABEL, 'mask': np.full(B, x, np.float32)} for x in (1, 0))
  params, stats = jax.jit(method.init)(jax.random.key(1), s, t, batch)
  cases = {
    'equal': (s | {k: t[k] for k in ('logits', 'strong')}, t, batch),
    'saturated': (*({k: 1e4 * np.sign(v) for k, v in x.items()} for x in (s, t)), batch),
    'zero': (*({k: 0 * v for k, v in x.items()} for x in (s, t)), batch),
    'padding': (s, t, padding),
  }

  def loss(params, s, t, batch):
    (total, count), _ = method.loss(params, stats, s, t, batch, step=0, rng=jax.random.key(0))
    return total / jnp.maximum(count, 1), (total, count)

  step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))  # one program for all cases
  for case, inputs in cases.items():
    (result, (total, count)), grads = step(params, *inputs)
    assert np.isfinite(result), case
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads)), case
    if case == 'padding':
      assert total == 0 and count == (1 if method.relational else 0)
      assert all(np.abs(g).max() == 0 for g in jax.tree.leaves(grads))
    if case == 'equal' and name not in NOT_ZERO:
      np.testing.assert_allclose(result, 0, atol=2e-5)


@pytest.mark.parametrize(
  'name,options',
  [
    ('dkd', {}),
    ('nkd', {}),
    ('rld', {}),
    ('wkd', {'costs': COSTS.tolist()}),
    ('wsld', {}),
    ('label_smoothing_teacher', {}),
    ('confidence', {'measure': 'label'}),
    ('difficulty', {'measure': 'label'}),
  ],
)
def test_an_unknown_label_takes_no_part(name, options):
  method, known = registry.make('methods', name, options), LABEL != 3
  batch = {'label': np.where(known, LABEL, -1)}
  s, t = ({'logits': x['logits'].astype(np.float32)} for x in (S, T))
  wanted = value(method, {}, *({'logits': x['logits'][known]} for x in (s, t)), {'label': LABEL[known]})
  np.testing.assert_allclose(value(method, {}, s, t, batch), wanted, rtol=1e-5)
  with pytest.raises(KdjaxError, match="no 'label'"):
    value(method, {}, s, t, {})


def test_dot_with_one_momentum_is_sgd():
  """Also for parameters that one of the losses does not reach."""
  rng = np.random.default_rng(1)
  params = {k: jnp.asarray(rng.normal(size=3), jnp.float32) for k in ('both', 'task', 'kd')}
  trainer = dot(lambda step: 0.1 / (step + 1), delta=0.0, weight_decay=0.01)
  sgd = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(lambda step: 0.1 / (step + 1), 0.9))
  ours, theirs, a, b = trainer.init(params), sgd.init(params), params, params
  for _ in range(3):
    g, h = (jax.tree.map(lambda x: jnp.asarray(rng.normal(size=3), x.dtype), params) for _ in range(2))
    updates, ours = trainer.update(g | {'kd': None}, h | {'task': None}, ours, a)
    a = optax.apply_updates(a, updates)
    together = {'both': g['both'] + h['both'], 'task': g['task'], 'kd': h['kd']}
    updates, theirs = sgd.update(together, theirs, b)
    b = optax.apply_updates(b, updates)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b)


def test_a_wrong_choice_says_what_there_is():
  with pytest.raises(KdjaxError, match='Choose from: max, entropy, label'):
    registry.make('methods', 'confidence', {'measure': 'maxx'})
  with pytest.raises(KdjaxError, match='Choose from: easy, hard'):
    registry.make('methods', 'difficulty', {'order': 'random'})
  with pytest.raises(KdjaxError, match='or neither'):
    registry.make('methods', 'mlkd', {'student_strong': 'strong'})


@pytest.mark.parametrize(('alpha', 'beta'), [(1e-4, 0.6), (0.6, 1e-4), (1e-4, 1e-4)])
def test_the_corners_of_abkd_are_its_limits(alpha, beta):
  with jax.enable_x64(True):
    near, corner = (
      registry.make('methods', 'abkd', {'alpha': a, 'beta': b})
      for a, b in ((alpha, beta), (alpha * (alpha > 0.1), beta * (beta > 0.1)))
    )
    a, b = (value(m, {}, S, T, {}) for m in (near, corner))
    np.testing.assert_allclose(a, b, rtol=2e-3)
    kd = registry.make('methods', 'kd', {'temperature': 4.0})
    kl_corner = registry.make('methods', 'abkd', {'alpha': 1, 'beta': 0})
    np.testing.assert_allclose(value(kl_corner, {}, S, T, {}), value(kd, {}, S, T, {}), rtol=1e-10)
    reverse = registry.make('methods', 'abkd', {'alpha': 0, 'beta': 1})
    np.testing.assert_allclose(value(reverse, {}, S, T, {}), value(kd, {}, T, S, {}), rtol=1e-10)


def test_taid_moves_as_its_algorithm_says():
  """t of 30 steps against the update of the paper written out, with losses that fall and rise."""
  first, last, rate, beta, steps = 0.3, 0.9, 0.2, 0.8, 40
  options = {'first': first, 'last': last, 'rate': rate, 'momentum': beta, 'steps': steps}
  method, rng = registry.make('methods', 'taid', options), np.random.default_rng(0)
  with jax.enable_x64(True):
    _, stats = method.init(jax.random.key(0), S, T, {})
    t, previous, m = first, None, 0.0
    for step in range(30):
      s = {'logits': S['logits'] * rng.uniform(0.5, 1.5)}
      mixed = [(1 - t) * a + t * b for a, b in zip(s['logits'], T['logits'], strict=True)]
      expected = np.mean([kl(softmax(x), softmax(a)) for x, a in zip(mixed, s['logits'], strict=True)])
      (total, count), stats = method.loss({}, stats, s, T, {}, step=step, rng=jax.random.key(0))
      np.testing.assert_allclose(total / count, expected, rtol=1e-5)
      np.testing.assert_allclose(stats['t'], t, rtol=1e-6)
      if previous is not None:
        m = beta * m + (1 - beta) * max((previous - expected) / previous, -1)
        line = first + (last - first) * step / steps
        t = min(last, max(line, t + rate / (1 + np.exp(-m)) * (1 - t)))
      previous = expected
