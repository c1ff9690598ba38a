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


MAPS = ('a/map', 'b/map', 'c/map')
HEADS = ('weights/a', 'weights/b', 'weights/c')


def maps_case():
  rng = np.random.default_rng(5)
  s, t = S | {'map': rng.normal(size=(B, 4, 4, 3))}, dict(T)
  for name, head, width in zip(MAPS, HEADS, (4, 2, 5), strict=True):
    t[name] = rng.normal(size=(B, 2, 2, width))
    t |= {f'{head}/kernel': rng.normal(size=(1, width, C)), f'{head}/bias': rng.normal(size=(1, C))}
  return s, t


def bottleneck(x, p):
  """1 × 1, 3 × 3 with a border of zeros, and 1 × 1, each with batch norm and ReLU, on 2 × 2 positions."""
  for i in range(3):
    kernel = p[f'conv{i}']['kernel']
    around = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    if i == 1:
      x = sum(around[:, j : j + 2, k : k + 2] @ kernel[j, k] for j in range(3) for k in range(3))
    else:
      x = x @ kernel[0, 0]
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    x = np.maximum(x * p[f'norm{i}']['scale'] + p[f'norm{i}']['bias'], 0)
  return x


def ca_mkd_with_maps(s, t, params, still):
  small = s['map'].reshape(B, 2, 2, 2, 2, 3).mean((2, 4))
  projected = [bottleneck(small, params[f'teacher{i}']) for i in range(3)]
  values = []
  for i, y in enumerate(LABEL):
    if y >= 0:
      costs = []
      for r, head in zip(projected, HEADS, strict=True):
        logits = r[i].mean((0, 1)) @ t[f'{head}/kernel'][0] + t[f'{head}/bias'][0]
        costs.append(-np.log(softmax(logits)[y]))
      errors = [((r[i] - t[name][i]) ** 2).mean() for r, name in zip(projected, MAPS, strict=True)]
      values.append((1 - softmax(np.array(costs))) / 2 @ errors)
  return ca_mkd(s, t, params, still) + 5 * np.mean(values)


def test_ca_mkd_of_maps_by_hand():
  s, t = maps_case()
  options = {'temperature': 3, 'teachers': NAMES, 'features': 5.0, 'student_map': 'map'}
  method = registry.make('methods', 'ca_mkd', options | {'teacher_maps': MAPS, 'classifiers': HEADS})
  assert method.relational
  second_writing.check(method, ca_mkd_with_maps, s, t, BATCH)


@pytest.mark.parametrize('name', ['ca_mkd', 'am_radio'])
def test_as_many_of_each_teacher(name):
  given = {'features': 1.0} if name == 'ca_mkd' else {}
  with pytest.raises(KdjaxError, match='as many of each'):
    registry.make('methods', name, given | {'teachers': ('a', 'b')})


def huber(d):
  return np.where(abs(d) < 1, d**2 / 2, abs(d) - 0.5).mean(-1)


def cosines(a, b):
  return np.sum(a * b, -1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_am_radio_by_hand():
  """Class tokens and patches of two teachers, one of a grid of patches as large and one of a smaller."""
  rng = np.random.default_rng(6)
  s = {'class': rng.normal(size=(B, 3)), 'tokens': rng.normal(size=(B, 1 + 16, 3))}
  t = {'a/class': rng.normal(size=(B, 4)), 'b/class': rng.normal(size=(B, 2))}
  t |= {'a/tokens': rng.normal(size=(B, 3 + 16, 5)), 'b/tokens': rng.normal(size=(B, 4, 4))}
  names = {'student': 'class', 'teachers': ('a/class', 'b/class'), 'student_patches': 'tokens'}
  names |= {'teacher_patches': ('a/tokens', 'b/tokens'), 'student_first': 1, 'teacher_first': (3, 0)}
  method = registry.make('methods', 'am_radio', names | {'hidden': 4, 'patches': 0.7})

  def head(x, params, name):
    x = x @ params[f'{name}_in']['kernel'] + params[f'{name}_in']['bias']
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = gelu(x * params[f'{name}_norm']['scale'] + params[f'{name}_norm']['bias'])
    return x @ params[f'{name}_out']['kernel'] + params[f'{name}_out']['bias']

  def writing(s, t, params, still):
    total = 0
    for i, (name, first) in enumerate((('a', 3), ('b', 0))):
      total += np.mean(1 - cosines(head(s['class'], params, f'summary{i}'), t[f'{name}/class']))
      y, z = head(s['tokens'][:, 1:], params, f'patches{i}'), t[f'{name}/tokens'][:, first:]
      if name == 'b':  # 4 × 4 patches to 2 × 2
        y = y.reshape(B, 2, 2, 2, 2, -1).mean((2, 4)).reshape(B, 4, -1)
      total += 0.7 * np.mean(0.9 * (1 - cosines(y, z)) + 0.1 * huber(y - z))
    return total

  second_writing.check(method, writing, s, t, {})


PHI_S = {'mse': 0.5, 'cosine': 0.3, 'smooth_l1': 0.2, 'hidden': 4, 'steps': 2, 'teachers': ('a', 'b')}


def phi_s_case(seed):
  rng = np.random.default_rng(seed)
  mix = np.random.default_rng(9).normal(size=(4, 4)) * np.array([5, 1, 0.2, 0.01])[:, None]
  t = {'a': 3 + rng.normal(size=(40, 3, 4)) @ mix, 'b': rng.normal(size=(40, 3, 5))}
  return {'embed': rng.normal(size=(40, 3, 2))}, t


def test_phi_s_by_hand():
  s, t = phi_s_case(0)
  with jax.enable_x64(True):
    method = registry.make('methods', 'phi_s', PHI_S)
    stats = method.init(jax.random.key(1), s, t, {})[1]
  matrices = [np.asarray(stats[f'teacher{i}']['matrix']) for i in (0, 1)]
  targets = [(t[k] - t[k].mean((0, 1))) @ m.T for k, m in zip('ab', matrices, strict=True)]
  for z in targets:
    covariance = np.cov(z.reshape(120, -1).T, bias=True)
    np.testing.assert_allclose(np.trace(covariance), len(covariance), rtol=1e-6)
  np.testing.assert_allclose(np.diag(np.cov(targets[0].reshape(120, 4).T, bias=True)), 1, rtol=1e-5)
  gram = matrices[1] @ matrices[1].T
  np.testing.assert_allclose(gram, gram[0, 0] * np.eye(5), atol=1e-6 * gram[0, 0])  # a rotation and one scale

  def writing(s, t, params, still):
    total = 0
    for i, z in enumerate(targets):
      y = gelu(s['embed'] @ params[f'hidden{i}']['kernel'] + params[f'hidden{i}']['bias'])
      y = y @ params[f'out{i}']['kernel'] + params[f'out{i}']['bias']
      each = 0.5 * ((y - z) ** 2).mean(-1) + 0.3 * (1 - cosines(y, z)) + 0.2 * huber(y - z)
      total += each.mean()
    return total

  second_writing.check(method, writing, s, t, {})


def test_phi_s_gathers_its_moments_and_then_keeps_them():
  cases = [phi_s_case(i) for i in range(6)]
  with jax.enable_x64(True):
    method = registry.make('methods', 'phi_s', PHI_S)
    params, stats = method.init(jax.random.key(1), *cases[0], {})
    history = []
    for s, t in cases[1:]:
      _, stats = method.loss(params, stats, s, t, {}, step=0, rng=jax.random.key(0))
      history.append(stats['teacher0'])
  first = np.concatenate([t['a'].reshape(120, 4) for _, t in cases[:3]])  # the first batch and two steps
  np.testing.assert_allclose(history[-1]['mean'], first.mean(0), rtol=1e-9)
  np.testing.assert_allclose(history[-1]['product'], first.T @ first / len(first), rtol=1e-9)
  turned = (first - first.mean(0)) @ np.asarray(history[-1]['matrix']).T
  np.testing.assert_allclose(turned.var(0), 1, rtol=1e-6)
  np.testing.assert_array_equal(history[-1]['matrix'], history[-2]['matrix'])


@pytest.mark.parametrize('n', [1, 2, 4, 8, 12, 16, 20, 28, 36, 384, 768])
def test_hadamard_matrices(n):
  matrix = registry.module('methods', 'phi_s').rotation(n)
  np.testing.assert_allclose(matrix @ matrix.T, np.eye(n), atol=1e-10)
  np.testing.assert_allclose(abs(matrix), n**-0.5, rtol=1e-10)


@pytest.mark.parametrize('n', [3, 5, 6, 92, 100])
def test_a_width_without_a_hadamard_matrix(n):
  matrix = registry.module('methods', 'phi_s').rotation(n)
  np.testing.assert_allclose(matrix @ matrix.T, np.eye(n), atol=1e-10)
  assert abs(matrix).max() <= (2 / n) ** 0.5 + 1e-10
