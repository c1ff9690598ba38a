"""Methods that learn together, or from oneself, against second writings in plain NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import second_writing

import taps
from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.methods.online import kdcl as kdcl_file
from kdjax.tasks.classification import classification
from kdjax.training.loss_weights import combine
from kdjax.training.step import make_init, make_update

B, C, RNG = 6, 4, np.random.default_rng(0)
LABEL = np.array([0, 2, -1, 1, 3, 1], np.int32)
MASK = np.array([1, 1, 1, 0, 1, 1], np.float32)
BATCH = {'label': LABEL, 'mask': MASK, 'x': RNG.normal(size=(B, 3))}
BATCH['text/mask'] = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1], [0, 1, 1]])
REAL, KNOWN = np.flatnonzero(MASK), np.flatnonzero(MASK * (LABEL >= 0))
S = {
  'logits': 2 * RNG.normal(size=(B, C)),
  'embed': RNG.normal(size=(B, 5)),
  'map': RNG.normal(size=(B, 4, 4, 1)),
  'text/tokens': RNG.normal(size=(B, 3, 2)),
  'vector': RNG.normal(size=(B, 3)),
}
T = {'logits': RNG.normal(size=(B, C)), 'vector': RNG.normal(size=(B, 3))}


def make(name, options=None):
  return registry.make('methods', name, taps.needed(name, C) | (options or {}))


def score(p):
  return np.tanh(BATCH['x'] @ p['a']) @ p['b']


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def kl(z, x, temperature=1.0):
  p, q = softmax(z / temperature), softmax(x / temperature)
  return temperature**2 * (p * np.log(p / q)).sum(-1)


def ce(z):
  return -np.log(softmax(z)[np.arange(B), np.maximum(LABEL, 0)])


def dml(s, t, params, still):
  q, p, q_still, p_still = s['logits'], score(params['peer']), still[0]['logits'], score(still[1]['peer'])

  def own(p):
    return ce(p)[KNOWN].mean() + kl(q_still, p)[REAL].mean()

  return kl(p_still, q)[REAL].mean() + own(p) - own(p_still)


def minlogit(z):
  return np.array([[min(x[i, c] - x[i, LABEL[i]] for x in z) for c in range(C)] for i in range(B)])


def naive(z):
  return np.array([z[np.argmin([ce(x)[i] for x in z])][i] for i in range(B)])


def kdcl(ensemble):
  def writing(s, t, params, still):
    def scores(s, params):
      return [s['logits'], score(params['a']), score(params['b'])]

    z, fixed = scores(s, params), scores(still[0], still[1])
    target = ensemble(fixed)

    def own(z):
      return sum(kl(target, p, 2) + ce(p) for p in z[1:])

    return np.mean((kl(target, z[0], 2) + own(z) - own(fixed))[KNOWN])

  return writing


def linear(x, p):
  return x @ p['kernel'] + p.get('bias', 0)


def byot(s, t, params, still):
  w, tokens = BATCH['text/mask'][..., None], s['text/tokens']
  total = 0
  for i, x in enumerate((s['map'].mean((1, 2)), (tokens * w).sum(1) / w.sum(1))):
    f = linear(np.maximum(linear(x, params[f'in{i}']), 0), params[f'out{i}'])
    z = linear(f, params[f'classifier{i}'])
    soft = 0.3 * kl(still[0]['logits'], z, 3) + 0.03 * ((f - still[0]['embed']) ** 2).sum(-1)
    total += 0.7 * ce(z)[KNOWN].mean() + soft[REAL].mean()
  return total


def convolve(x, kernel, stride):
  low, high = (0, 1) if stride == 2 else (1, 1)  # 'SAME' of an even size
  x = np.pad(x, ((0, 0), (low, high), (low, high), (0, 0)))
  n = (x.shape[1] - 3) // stride + 1
  rows = [x[:, i : i + stride * n : stride] for i in range(3)]
  return sum(rows[i][:, :, j : j + stride * n : stride] @ kernel[i, j] for i in range(3) for j in range(3))


def batch_norm(x, p):
  axes = tuple(range(x.ndim - 1))
  mean, variance = x[REAL].mean(axes), x[REAL].var(axes)
  return (x - mean) / np.sqrt(variance + 1e-5) * p['scale'] + p['bias']


def one(key, branches):
  target = []

  def writing(s, t, params, still):
    def scores(s, params):
      z = [s['logits']]
      for i in range(1, branches + 1):
        x, p = s[key], params[f'branch{i}']
        for j in (0, 1):
          kernel = p[f'layer{j}']['kernel']
          x = convolve(x, kernel, 1 if j else 2) if x.ndim == 4 else x @ kernel
          x = np.maximum(batch_norm(x, p[f'norm{j}']), 0)
        z.append(linear(x.mean((1, 2)) if x.ndim == 4 else x, p['classifier']))
      pooled = s[key].mean((1, 2)) if s[key].ndim == 4 else s[key]
      gate = softmax(np.maximum(batch_norm(linear(pooled, params['gate']), params['gate_norm']), 0))
      return z, sum(gate[:, i : i + 1] * x for i, x in enumerate(z))

    if not target:  # the same for all quotients
      target.append(scores(*still)[1])
    z, mixture = scores(s, params)
    hard = ce(mixture) + sum(ce(x) for x in z[1:])
    return hard[KNOWN].mean() + sum(kl(target[0], x, 3) for x in z)[REAL].mean()

  return writing


def ps_kd(s, t, params, still):
  log_q = np.log(softmax(s['logits']))
  return np.mean((ce(s['logits']) * -1 - (softmax(t['logits']) * log_q).sum(-1))[KNOWN])


def dino(s, t, params, still):
  return -np.mean((softmax(t['logits'] / 0.04) * np.log(softmax(s['logits'] / 0.1))).sum(-1)[REAL])


ONE = {'trunk': 'vector', 'width': 2}
BYOT = {'student': ('map', 'text/tokens')}
WRITINGS = [
  ('dml', {}, dml, ['logits']),
  ('kdcl', {'ensemble': 'naive'}, kdcl(naive), ['logits']),
  ('kdcl', {}, kdcl(minlogit), ['logits']),
  ('byot', BYOT, byot, ['logits', 'embed', 'map', 'text/tokens']),
  ('one', ONE | {'trunk': 'map', 'branches': 1}, one('map', 1), ['logits', 'map']),
  ('one', ONE, one('vector', 2), ['logits', 'vector']),
  ('ps_kd', {}, ps_kd, ['logits']),
  ('dino', {}, dino, ['logits']),
]
EVERY = [(n, o) for n, o, _, _ in WRITINGS if o.get('trunk') != 'map'] + [
  ('kdcl', {'ensemble': 'linear'}),
  ('dino', {'prototypes': 7, 'student': 'vector', 'teacher': 'vector'}),
]


@pytest.mark.parametrize('name,options,writing,keys', WRITINGS)
def test_the_second_writing_and_its_gradient(name, options, writing, keys):
  second_writing.check(make(name, options), writing, {k: S[k] for k in keys}, T, BATCH)


def narrow(x):
  return {k: np.float32(v) if v.dtype == np.float64 else v for k, v in x.items()}


@functools.cache
def compiled(name, options):
  """(gradient by parameters and student, beside ((sum, count), new statistics); parameters; statistics)."""
  method = make(name, dict(options))
  params, stats = jax.jit(method.init)(jax.random.key(1), narrow(S), narrow(T), narrow(BATCH))

  def mean(params, s, t, batch, step):
    result = method.loss(params, stats, s, t, batch, step=step, rng=jax.random.key(0))
    return result[0][0] / jnp.maximum(result[0][1], 1), result

  return jax.jit(jax.grad(mean, (0, 1), has_aux=True)), params, stats


def terms(name, options, s=S, t=T, batch=BATCH, step=0):
  """((sum, count), new statistics), the gradient by parameters and student, and the old statistics."""
  function, params, stats = compiled(name, tuple(options.items()))
  grads, result = function(params, narrow(s), narrow(t), narrow(batch), step)
  return result, grads, stats


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.parametrize('name,options', EVERY)
def test_padding_takes_no_part_and_statistics_keep_their_shapes(name, options):
  result, grads, stats = terms(name, options)
  other = [{k: np.where(MASK.reshape(-1, *[1] * (v.ndim - 1)), v, 9) for k, v in x.items()} for x in (S, T)]
  batch = BATCH | {'label': np.where(MASK > 0, LABEL, 3).astype(np.int32)}
  again, grads_again, _ = terms(name, options, *other, batch)
  close(again[0], result[0])
  close(grads_again, grads)
  assert jax.tree.map(jnp.shape, result[1]) == jax.tree.map(jnp.shape, stats)
  if name in ('dml', 'kdcl'):
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(result[1])), 'the peers keep no statistics'
  nothing, grads, _ = terms(name, options, batch=BATCH | {'mask': 0 * MASK})
  assert nothing[0][0] == 0 and all(np.abs(g).max() == 0 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize('name,options', [('kdcl', {}), ('kdcl', {'ensemble': 'linear'}), ('ps_kd', {})])
def test_an_example_with_no_label_takes_no_part(name, options):
  result, grads, _ = terms(name, options)
  again, grads_again, _ = terms(name, options, batch=BATCH | {'mask': MASK * (LABEL >= 0)})
  close((again[0], grads_again), (result[0], grads))
  assert result[0][1] == len(KNOWN)


@pytest.mark.parametrize('name,options', EVERY)
def test_huge_scores_stay_finite(name, options):
  huge = [{k: 1e4 * np.sign(v) for k, v in x.items()} for x in (S, T)]
  result, grads, _ = terms(name, options, *huge)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((result, grads)))


def test_mutual_learning_teaches_each_side_by_the_other_held_still():
  model, batch, s = taps.peer(0, C), narrow(BATCH), {'logits': jnp.float32(S['logits'])}
  _, params, stats = compiled('dml', ())
  (value, _), (to_params, to_s), _ = terms('dml', {})
  kd = registry.make('methods', 'kd', {'temperature': 1.0})

  def scores(params):
    return model.apply({'params': params, **stats}, batch)[0]

  def own(params):
    total, count = classification().loss(scores(params), batch)
    return total / count + second_writing.loss(kd, {}, {}, scores(params), s, batch)

  @jax.jit
  def plain(params, s):
    student = jax.value_and_grad(lambda s: second_writing.loss(kd, {}, {}, s, scores(params), batch))
    return *student(s), jax.grad(own)(params)

  wanted, to_student, to_peer = plain(params['peer'], s)
  np.testing.assert_allclose(value[0], wanted, rtol=1e-6)
  close((to_s['logits'], to_params['peer']), (to_student['logits'], to_peer))


def test_the_best_of_all_learns_nothing_from_the_naive_ensemble():
  sure = 20 * np.eye(C)[LABEL]
  result, (to_params, to_s), _ = terms('kdcl', {'ensemble': 'naive'}, S | {'logits': sure})
  assert result[0][0] == 0 and np.abs(to_s['logits']).max() < 1e-6
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(to_params))


@pytest.mark.parametrize('size', [1.0, 20.0])
def test_the_linear_ensemble_is_close_to_the_best_mixture(size):
  z, label = size * np.random.default_rng(3).normal(size=(3, 40, C)), np.arange(40) % C
  with jax.enable_x64(True):
    result = np.asarray(jax.jit(kdcl_file.linear)(z, label))

  def cost(x):
    return -np.log(softmax(x)[..., np.arange(40), label])

  grid = np.array([(i, j, 50 - i - j) for i in range(51) for j in range(51 - i)]) / 50
  best = cost(np.einsum('gm,mbc->gbc', grid, z)).min(0)
  gap, start = cost(result) - best, cost(z.mean(0)) - best
  assert (gap <= start + 1e-9).all() and gap.mean() < 0.02 * start.mean() and gap.min() > -0.1 * size


@pytest.mark.parametrize('alpha', [0.0, 0.3, 0.8])
def test_past_scores_and_labels_are_mixed(alpha):
  s, t, batch = narrow(S), narrow(T), narrow(BATCH)
  method = make('ps_kd')

  def through(logits):
    total, count = classification().loss({'logits': logits}, batch)
    return total / count + alpha * second_writing.loss(method, {}, {}, {'logits': logits}, t, batch)

  def mixed(logits):
    target = (1 - alpha) * jax.nn.one_hot(LABEL, C) + alpha * jax.nn.softmax(t['logits'])
    return jnp.mean(optax.softmax_cross_entropy(logits, target)[KNOWN])

  close(jax.value_and_grad(through)(s['logits']), jax.value_and_grad(mixed)(s['logits']))


def test_the_centre_follows_the_teacher_and_is_taken_off():
  method, (s, t, batch) = make('dino'), (narrow(S), narrow(T), narrow(BATCH))
  _, stats = method.init(jax.random.key(1), s, t, batch)
  c = np.zeros(C)
  for _ in range(3):
    (total, count), new = method.loss({}, stats, s, t, batch, step=0, rng=None)
    p = softmax((T['logits'] - c) / 0.04)
    wanted = -(p * np.log(softmax(S['logits'] / 0.1))).sum(-1)[REAL].mean()
    np.testing.assert_allclose(total / count, wanted, rtol=1e-5)
    c = 0.9 * c + 0.1 * T['logits'][REAL].mean(0)
    np.testing.assert_allclose(new['center'], c, rtol=1e-5)
    stats = new
  _, kept = method.loss({}, stats, s, t, batch | {'mask': 0 * MASK}, step=0, rng=None)
  np.testing.assert_array_equal(kept['center'], stats['center'])


def test_prototypes_are_averaged_and_cosines():
  options = {'prototypes': 7, 'student': 'vector', 'teacher': 'vector', 'momentum': 0.9}
  method, (s, t, batch) = make('dino', options), (narrow(S), narrow(T), narrow(BATCH))
  params, stats = method.init(jax.random.key(1), s, t, batch)
  np.testing.assert_array_equal(params['kernel'], stats['kernel'])
  moved = {'kernel': params['kernel'] + 1}
  (total, count), new = method.loss(moved, stats, s, t, batch, step=0, rng=None)
  np.testing.assert_allclose(new['kernel'], params['kernel'] + 0.1, rtol=1e-5)

  def cosines(x, w):
    return x / np.linalg.norm(x, axis=1, keepdims=True) @ (w / np.linalg.norm(w, axis=0))

  q, p = cosines(S['vector'], np.float64(moved['kernel'])), cosines(T['vector'], np.float64(stats['kernel']))
  wanted = -(softmax(p / 0.04) * np.log(softmax(q / 0.1))).sum(-1)[REAL].mean()
  np.testing.assert_allclose(total / count, wanted, rtol=1e-4)


def test_the_ramp_is_on_the_divergence_alone():
  hard, first, last = (terms('one', ONE | {'rampup': 10}, step=step)[0][0][0] for step in (-1000, 0, 10))
  np.testing.assert_allclose(last, terms('one', ONE)[0][0][0], rtol=1e-6)
  np.testing.assert_allclose((first - hard) / (last - hard), np.exp(-5), rtol=1e-2)


@pytest.mark.parametrize('name', ['dml', 'kdcl'])
def test_a_step_trains_the_student_and_its_peers(name):
  student, batch = taps.peer(5, C), narrow(BATCH | {'mask': np.ones(B)})
  method = combine({name: (1.0, make(name), lambda step: 1.0)})
  tx = optax.adam(0.05)
  state = make_init(student, method, tx)(0, {}, batch)
  update = jax.jit(make_update(student, classification(), method, tx))
  peers = {'dml': ['peer'], 'kdcl': ['a', 'b']}[name]
  assert set(state.params['student']) == {'a', 'b'} and set(state.params['method'][name]) == set(peers)
  for _ in range(60):
    state, _ = update(state, {}, batch)
  for params in (state.params['student'], *state.params['method'][name].values()):
    np.testing.assert_array_equal(score(params).argmax(-1)[LABEL >= 0], LABEL[LABEL >= 0])


@pytest.mark.parametrize(
  'name,options,says',
  [
    ('dml', {'peer': taps.peer(classes=3)}, r'dml needs a peer with .logits. \[6, 4\], and it has \[6, 3\]'),
    ('dml', {'student': 'scores'}, 'Choose from'),
    ('kdcl', {'peers': {}}, 'one peer or more'),
    ('kdcl', {'peers': {'small': taps.peer(classes=3)}}, r"'small' has \[6, 3\]"),
    ('kdcl', {'ensemble': 'general'}, 'Choose from: linear, minlogit, naive'),
    ('one', {'trunk': 'text/tokens'}, r"'text/tokens' \[6, 3, 2\]"),
    ('byot', {'student': ('stage9',)}, "'stage9'"),
  ],
)
def test_what_does_not_fit_is_named(name, options, says):
  key = jax.random.key(0)
  with pytest.raises(KdjaxError, match=says) as raised:
    method = make(name, options)
    method.loss(*method.init(key, S, T, BATCH), S, T, BATCH, step=0, rng=key)
  assert '\n' not in str(raised.value)
