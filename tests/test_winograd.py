"""Winograd's convolution against that of lax: values, gradients, exactness, and a batch that is split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from kdjax.nn import winograd
from kdjax.nn.conv import NHWC, conv_general_dilated

# images, height, width, channels in, out, padding
CASES = {
  'same': (4, 6, 8, 3, 5, ((1, 1), (1, 1))),
  'odd': (3, 5, 7, 4, 2, ((1, 1), (1, 1))),
  'valid': (2, 6, 5, 2, 3, ((0, 0), (0, 0))),
  'full': (2, 4, 3, 2, 3, ((2, 2), (2, 2))),
  'uneven': (2, 5, 4, 3, 2, ((0, 2), (1, 0))),
  'small': (3, 1, 2, 4, 5, ((1, 1), (1, 1))),
}


def arrays(case, dtype=np.float64):
  b, height, width, c, o, pads = CASES[case]
  rng = np.random.default_rng(0)
  x, w = rng.normal(size=(b, height, width, c)), rng.normal(size=(3, 3, c, o))
  y = rng.normal(size=(b, height + sum(pads[0]) - 2, width + sum(pads[1]) - 2, o))
  return *(jnp.asarray(a, dtype) for a in (x, w, y)), pads


def plain(x, w, pads):
  return lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=NHWC)


@pytest.fixture(params=[winograd.CACHE, 1])
def cache(request, monkeypatch):
  """How many elements are taken at a time: all of these small arrays, or one example of them."""
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  taken = winograd.conv, winograd.kernel_grad
  for function in (winograd.in_steps, winograd._examples_at_once):
    monkeypatch.setattr(function, '__defaults__', (request.param,))
  for function in taken:
    function.clear_cache()
  yield request.param
  for function in taken:
    function.clear_cache()


@pytest.mark.whole
def test_float64_is_exact(cache):
  with jax.enable_x64(True):
    for case in CASES:
      x, w, y, pads = arrays(case)

      def both(x, w, y, pads=pads):
        grad = jax.vjp(lambda w: plain(x, w, pads), w)[1](y)[0]
        ours = winograd.conv(x, w, pads), winograd.kernel_grad(x, y, pads)
        return ours, (plain(x, w, pads), grad)

      for mine, wanted in zip(*jax.jit(both)(x, w, y), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-12, atol=1e-12, err_msg=case)
      loops = str(jax.make_jaxpr(both)(x, w, y)).count('scan[')
      assert (loops > 0) == (cache == 1), case


def wide(b=16, side=8, c=96, o=96):
  """Such channels that the convolution and all its gradients are taken this way."""
  x, w = (
    jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(b, side, side, c), (3, 3, c, o)])
  )
  return x, w


def ours(x, w, stride=1):
  return conv_general_dilated(x, w, (stride, stride), 'SAME', dimension_numbers=NHWC)


def test_it_is_taken(monkeypatch):
  x, w = wide()
  y, taken = ours(x, w), []
  for name in ('conv', 'kernel_grad'):
    real = getattr(winograd, name)
    monkeypatch.setattr(winograd, name, lambda *a, real=real, name=name: taken.append(name) or real(*a))
  _, pull = jax.vjp(ours, x, w)
  pull(y)
  assert taken == ['conv', 'conv', 'kernel_grad']
  for few in (x[:4], x[..., :16]):  # too few pixels, too few channels
    taken.clear()
    ours(few, w[:, :, : few.shape[3]])
    assert not taken


def test_float32_is_as_exact_as_a_plain_convolution():
  x, w = wide()
  with jax.enable_x64(True):
    exact, pull = jax.vjp(
      lambda x, w: plain(x, w, 'SAME'), *(jnp.asarray(np.asarray(a), float) for a in (x, w))
    )
    y = jnp.cos(exact).astype(jnp.float32)
    exact = exact, *pull(y.astype(float))

  def errors(f):
    out, pull = jax.vjp(f, x, w)
    return [np.std(np.asarray(a) - np.asarray(b)) for a, b in zip((out, *pull(y)), exact, strict=True)]

  for mine, lax_s in zip(errors(ours), errors(lambda x, w: plain(x, w, 'SAME')), strict=True):
    assert mine < 1.5 * lax_s


@pytest.mark.whole
def test_second_derivative(cache):
  with jax.enable_x64(True):
    x, w = (jnp.asarray(np.asarray(a), float) for a in wide())

    def penalty(f):
      grad = jax.grad(lambda x, w: jnp.sum(jnp.tanh(f(x, w))), argnums=(0, 1))
      return jax.grad(lambda x, w: sum(jnp.vdot(g, g) for g in grad(x, w)), argnums=(0, 1))

    result, wanted = (jax.jit(penalty(f))(x, w) for f in (ours, lambda x, w: plain(x, w, 'SAME')))
    for a, b in zip(result, wanted, strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * float(jnp.abs(b).max()))


@pytest.mark.parametrize('strides', [1, 2])
def test_a_split_batch_stays_where_it_is(strides, eight_devices):
  x, w = wide(b=32, side=32)
  mesh = jax.make_mesh((8,), ('data',), (jax.sharding.AxisType.Auto,))
  x, w = (jax.device_put(a, NamedSharding(mesh, PartitionSpec(*p))) for a, p in ((x, ['data']), (w, [])))

  def both(x, w):
    def loss(w):
      return jnp.sum(ours(x, w, strides) ** 2)

    return ours(x, w, strides), jax.grad(loss)(w)

  text = jax.jit(both).lower(x, w).compile().as_text()
  assert 'while' in text
  assert not any(word in text for word in ('all-gather', 'all-to-all', 'collective-permute'))
