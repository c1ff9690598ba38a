"""Second writings, in NumPy loops, of what no golden vector holds, and what must stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from second_writing import info_nce_gradients

import taps
from kdjax import registry

SEED = jax.random.key(0)
NAMES = sorted(n for n, path in registry.names('methods').items() if '.image_text.' in path)


def example():
  """Taps and a batch in float64, its last three examples padding."""
  s, t, batch = taps.example()
  s, t = ({k: x.astype(np.float64) for k, x in tree.items()} for tree in (s, t))
  return s, t, batch | {'mask': np.arange(taps.B) < taps.B - 3}


def value(method, params, s, t, batch):
  (total, count), _ = method.loss(params, {}, s, t, batch, step=0, rng=SEED)
  return total / jnp.maximum(count, 1)


def rows(outputs, *names):
  """The real rows of embeddings, at length 1."""
  return [
    (x := np.asarray(outputs[n])[: taps.B - 3]) / np.linalg.norm(x, axis=1, keepdims=True) for n in names
  ]


def cross_entropy(scores, i):
  return np.log(sum(np.exp(z) for z in scores)) - scores[i]


def info_nce(a, b, scale):
  return np.mean([cross_entropy([scale * x @ y for y in b], i) for i, x in enumerate(a)])


def linear(params, x):
  y = x @ np.asarray(params['kernel']) + np.asarray(params['bias'])
  return y / np.linalg.norm(y, axis=1, keepdims=True)


def projected(params, s):
  real = [np.asarray(s[n])[: taps.B - 3] for n in ('image/embed', 'text/embed')]
  return [linear(params[k], x) for k, x in zip(('image', 'text'), real, strict=True)]


def icl(params, s, t):
  (v, w), (vt, wt) = projected(params['projection'], s), rows(t, 'image/embed', 'text/embed')
  c = np.exp(params['logit_scale'])
  return (info_nce(v, wt, c) + info_nce(w, vt, c)) / 2


def kl_rows(p, q):
  total = 0
  for a, b in zip(p, q, strict=True):
    total += sum(
      np.exp(-cross_entropy(a, j)) * (cross_entropy(b, j) - cross_entropy(a, j)) for j in range(len(a))
    )
  return total / len(p)


def cross_kd(params, s, t):
  (v, w), (vt, wt) = projected(params['projection'], s), rows(t, 'image/embed', 'text/embed')
  c, d = np.exp(params['logit_scale']), np.exp(t['logit_scale'])
  return (kl_rows(d * vt @ wt.T, c * v @ wt.T) + kl_rows(d * wt @ vt.T, c * w @ vt.T)) / 2


def crd(params, s, t):
  (v, w), (vt, wt) = (rows(x, 'image/embed', 'text/embed') for x in (s, t))
  c, d = np.exp(s['logit_scale']), np.exp(t['logit_scale'])
  return (kl_rows(d * vt @ wt.T, c * v @ w.T) + kl_rows(d * wt @ vt.T, c * w @ v.T)) / 2


def fd(params, s, t):
  pairs = zip(projected(params, s), rows(t, 'image/embed', 'text/embed'), strict=True)
  return sum(np.mean((a - b) ** 2) for a, b in pairs)


def kd(params, s, t):
  return 2000 * fd(params['projection'], s, t) + icl(params, s, t) + crd(params, s, t)


def afd(params, s, t):
  both = [np.hstack(x) for x in zip(*(rows(o, 'image/embed', 'text/embed') for o in (s, t)), strict=True)]
  image, text = linear(params['image'], both[0]), linear(params['text'], both[1])
  c = np.exp(params['logit_scale'])
  return (info_nce(image, text, c) + info_nce(text, image, c)) / 2


def gd(params, s, t):
  """The gradients of InfoNCE by differences."""

  student = info_nce_gradients(info_nce, *projected(params, s), np.exp(s['logit_scale']))
  teacher = info_nce_gradients(info_nce, *rows(t, 'image/embed', 'text/embed'), np.exp(t['logit_scale']))
  return sum(np.mean((a - b) ** 2) for a, b in zip(student, teacher, strict=True))


def sigmoids(outputs):
  v, w = rows(outputs, 'image/embed', 'text/embed')
  z = np.exp(outputs['logit_scale']) * v @ w.T + outputs['logit_bias']
  return z, 1 / (1 + np.exp(-z))


def siglip(params, s, t):
  (_, q), (_, p) = sigmoids(s), sigmoids(t)
  return np.mean(np.sum(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)), 1))


def siglip_released(params, s, t):
  (z, _), (_, p) = sigmoids(s), sigmoids(t)
  return np.mean(np.sum(np.log(1 + np.exp(-(2 * p - 1) * z)), 1))


WRITINGS = [
  ('clip_icl', {}, icl, 1e-9),
  ('clip_cross_kd', {}, cross_kd, 1e-9),
  ('clip_gd', {}, gd, 1e-6),  # of differences
  ('clip_afd', {}, afd, 1e-9),
  ('clip_kd', {}, kd, 1e-9),
  ('siglip', {}, siglip, 1e-9),
  ('siglip', {'released': True}, siglip_released, 1e-9),
]


@pytest.mark.parametrize('name, options, writing, tolerance', WRITINGS)
def test_a_second_writing_agrees(name, options, writing, tolerance):
  with jax.enable_x64(True):
    s, t, batch = example()
    method = registry.make('methods', name, options)
    params, _ = method.init(SEED, s, t, batch)
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    got = value(method, params, s, t, batch)
    np.testing.assert_allclose(got, writing(params, s, t), rtol=tolerance)


@pytest.mark.parametrize('name, options', [w[:2] for w in WRITINGS])
def test_the_gradient_is_that_of_the_value(name, options):
  with jax.enable_x64(True):
    s, t, batch = example()
    method = registry.make('methods', name, options)
    params, _ = method.init(SEED, s, t, batch)
    at = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), (params, s))
    rng = np.random.default_rng(0)
    along = jax.tree.map(lambda x: rng.normal(size=x.shape), at)
    f = jax.jit(jax.value_and_grad(lambda x: value(method, x[0], x[1], t, batch)))
    up, down = (f(jax.tree.map(lambda x, d, e=e: x + e * d, at, along))[0] for e in (1e-6, -1e-6))
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), f(at)[1], along)))
    np.testing.assert_allclose((up - down) / 2e-6, slope, rtol=1e-5)


@pytest.mark.parametrize('name', ['clip_fd', 'clip_crd', 'clip_gd', 'siglip'])
def test_it_is_zero_where_student_and_teacher_agree(name):
  _, t, batch = example()
  assert abs(value(registry.make('methods', name, {}), {}, t, t, batch)) < 1e-6


def large(x):
  return np.where(x > 0, 1e4, -1e4).astype(np.float32) if x.ndim else np.float32(np.log(100))


@pytest.mark.parametrize('name', NAMES)
def test_it_stays_finite(name):
  s, t, batch = taps.example()
  keys = ('image/embed', 'text/embed', 'logit_scale', 'logit_bias')  # of one program for all cases
  s, t = ({k: x[k] for k in keys} for x in (s, t))
  method = registry.make('methods', name, {})
  init = jax.jit(method.init)
  step = jax.jit(jax.value_and_grad(lambda p, s, t, batch: value(method, p, s, t, batch), (0, 1)))
  cases = {
    'zero': (*({k: np.zeros_like(x) for k, x in tree.items()} for tree in (s, t)), batch),
    'saturated': (*({k: large(x) for k, x in tree.items()} for tree in (s, t)), batch),
    'all masked': (s, t, batch | {'mask': np.zeros(taps.B, np.float32)}),
    'equal': (t, t, batch),
  }
  for case, inputs in cases.items():
    params, _ = init(SEED, *inputs)
    result, grads = step(params, *inputs)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((result, grads))), case
    if case == 'all masked':
      assert result == 0
