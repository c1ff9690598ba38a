"""Second writings of the methods with several teachers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import second_writing

from kdjax import registry
from kdjax.errors import KdjaxError

B, C, RNG = 6, 4, np.random.default_rng(0)
LABEL = np.array([0, 3, 2, -1, 1, 3], np.int32)
BATCH = {'label': LABEL}
NAMES = ('a/logits', 'b/logits', 'c/logits')
S = {'logits': RNG.normal(size=(B, C))}
T = {name: 2 * RNG.normal(size=(B, C)) for name in NAMES}
METHODS = ('mean_logits', 'mean_probabilities', 'ca_mkd')


def softmax(z):
  return np.exp(z) / np.sum(np.exp(z))


def kl(p, q):
  return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))


def mean_logits(s, t, params, still):
  mean = sum(t[name] for name in NAMES) / 3
  return np.mean([9 * kl(softmax(p / 3), softmax(q / 3)) for p, q in zip(mean, s['logits'], strict=True)])


def mean_probabilities(s, t, params, still):
  values = []
  for i, q in enumerate(s['logits']):
    mean = sum(softmax(t[name][i] / 3) for name in NAMES) / 3
    values.append(9 * kl(mean, softmax(q / 3)))
  return np.mean(values)


def ca_mkd(s, t, params, still):
  values = []
  for i, (q, y) in enumerate(zip(s['logits'], LABEL, strict=True)):
    if y < 0:
      continue
    costs = np.array([-np.log(softmax(t[name][i])[y]) for name in NAMES])
    weights = (1 - softmax(costs)) / 2
    each = [9 * kl(softmax(t[name][i] / 3), softmax(q / 3)) for name in NAMES]
    values.append(weights @ each)
  return np.mean(values)


@pytest.mark.parametrize('name', METHODS)
def test_the_second_writing_and_its_gradient(name):
  method = registry.make('methods', name, {'temperature': 3, 'teachers': NAMES})
  second_writing.check(method, globals()[name], S, T, BATCH)


@pytest.mark.parametrize('name', METHODS)
def test_it_stays_finite(name):
  method = registry.make('methods', name, {'teachers': ('logits', 'logits')})
  second_writing.check_finite(method, S, {'logits': T['a/logits']}, BATCH, True)


@pytest.mark.parametrize('name', METHODS)
def test_one_teacher_is_plain_distillation(name):
  s, t = {'logits': jnp.float32(S['logits'])}, {'logits': jnp.float32(T['a/logits'])}
  label = {'label': np.zeros(B, np.int32)}
  wanted, result = (
    second_writing.loss(registry.make('methods', n, {}), {}, {}, s, t, label) for n in ('kd', name)
  )
  np.testing.assert_allclose(result, wanted, rtol=1e-5)


def test_the_mean_of_probabilities_has_the_gradient_of_the_mean_of_the_losses():
  t = {name: jnp.float32(x) for name, x in T.items()}

  def gradient(*methods):
    def mean(q):
      return sum(second_writing.loss(m, {}, {}, {'logits': q}, t, BATCH) for m in methods) / len(methods)

    return jax.grad(mean)(jnp.float32(S['logits']))

  together = registry.make('methods', 'mean_probabilities', {'teachers': NAMES})
  alone = [registry.make('methods', 'kd', {'teacher': name}) for name in NAMES]
  np.testing.assert_allclose(gradient(together), gradient(*alone), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', METHODS)
def test_a_teacher_that_is_not_there_is_named(name):
  method = registry.make('methods', name, {'teachers': ('a/logits', 'd/logits')})
  s, t = ({k: np.float32(v) for k, v in x.items()} for x in (S, T))
  with pytest.raises(KdjaxError, match="'d/logits'.*a/logits"):
    second_writing.loss(method, {}, {}, s, t, BATCH)


UNIC = {'teachers': ('a/embed', 'b/embed'), 'hidden': 4, 'drop': 0.6}


def unic_case():
  rng = np.random.default_rng(3)
  s = {'embed': rng.normal(size=(40, 3))}
  t = {'a/embed': 3 + 2 * rng.normal(size=(40, 5)), 'b/embed': rng.normal(size=(40, 4))}
  return s, t, {'id': np.arange(40) * 7}


@pytest.mark.whole
def test_unic_by_hand():
  """Each teacher's loss, and the mean over the teachers that count, of standardised features."""
  s, t, batch = unic_case()
  method = registry.make('methods', 'unic', UNIC)
  with jax.enable_x64(True):
    params, stats = method.init(jax.random.key(0), s, t, batch)
    (total, count), new = method.loss(params, stats, s, t, batch, step=0, rng=jax.random.key(5))
    each = []
    for i, name in enumerate(('a/embed', 'b/embed')):
      p = params[f'hidden{i}'], params[f'out{i}']
      x = s['embed'] @ p[0]['kernel'] + p[0]['bias']
      x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
      y = np.asarray(x @ p[1]['kernel'] + p[1]['bias'])
      z = (t[name] - t[name].mean(0)) / t[name].std(0)
      cos = np.sum(y * z, -1) / np.linalg.norm(y, axis=-1) / np.linalg.norm(z, axis=-1)
      d = np.abs(y - z)
      each.append(0.5 * (1 - cos) + 0.5 * np.where(d < 1, d**2 / 2, d - 0.5).mean(-1))
    each = np.stack(each)
    counts = np.asarray(registry.module('methods', 'unic').kept(each, 0.6, batch['id'], jax.random.key(5)))
    assert np.all(counts[each.argmax(0), np.arange(40)] == 1) and 40 < counts.sum() < 80
    np.testing.assert_allclose(float(total), np.sum(each * counts), rtol=1e-8)
    assert count == counts.sum()
    np.testing.assert_allclose(new['teacher0']['mean'], stats['teacher0']['mean'], rtol=1e-8)


@pytest.mark.whole
def test_unic_is_the_same_however_the_batch_is_split():
  s, t, batch = unic_case()
  method = registry.make('methods', 'unic', UNIC)
  params, stats = method.init(jax.random.key(0), s, t, batch)

  def part(rows):
    pick = {k: {n: x[rows] for n, x in tree.items()} for k, tree in (('s', s), ('t', t), ('batch', batch))}
    return method.loss(params, stats, pick['s'], pick['t'], pick['batch'], step=0, rng=jax.random.key(5))[0]

  whole, halves = part(slice(None)), [part(slice(0, 13)), part(slice(13, 40))]
  np.testing.assert_allclose(whole, np.sum(halves, 0), rtol=1e-5)


def test_unic_without_dropping_is_the_mean_of_all():
  s, t, batch = unic_case()
  method = registry.make('methods', 'unic', UNIC | {'drop': 0.0})
  params, stats = method.init(jax.random.key(0), s, t, batch)
  (_, count), _ = method.loss(params, stats, s, t, batch, step=0, rng=jax.random.key(5))
  assert count == 80
