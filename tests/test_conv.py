"""The convolution of kdjax against that of lax: values, gradients, and where it may stand."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from kdjax.nn import conv
from kdjax.nn.conv import NHWC, Conv, conv_general_dilated

# batch, height, width; kernel; channels in, out; groups; strides; padding
CASES = {
  'plain': ((2, 6, 5), (3, 3), (3, 4), 1, (1, 1), 'SAME'),
  'strided': ((2, 7, 8), (3, 3), (3, 4), 1, (2, 2), 'SAME'),
  'strided_odd': ((3, 9, 7), (5, 3), (2, 3), 1, (3, 2), 'SAME_LOWER'),
  'remainder': ((2, 8, 9), (3, 2), (2, 3), 1, (3, 4), 'VALID'),
  'explicit': ((2, 5, 6), (3, 4), (2, 3), 1, (2, 1), ((1, 2), (3, 0))),
  'skips': ((2, 9, 7), (2, 1), (3, 2), 1, (3, 3), 'VALID'),
  'one': ((2, 4, 5), (1, 1), (3, 4), 1, (1, 1), 'SAME'),
  'one_strided': ((2, 7, 6), (1, 1), (3, 4), 1, (2, 3), 'SAME'),
  'one_padded': ((2, 4, 5), (1, 1), (3, 4), 1, (2, 1), ((1, 1), (0, 2))),
  'image': ((2, 6, 5), (3, 3), (3, 4), 1, (2, 1), 'SAME'),
  'larger': ((2, 2, 3), (5, 3), (3, 4), 1, (1, 1), 'SAME'),
  'wide_strided': ((4, 5, 6), (3, 3), (64, 64), 1, (2, 2), 'SAME'),
  'groups': ((2, 6, 5), (3, 3), (12, 6), 3, (2, 1), 'SAME'),
  'wide_groups': ((2, 4, 4), (3, 3), (80, 4), 2, (1, 1), 'SAME'),
  'depthwise': ((2, 6, 7), (3, 3), (6, 6), 6, (1, 1), 'SAME'),
  'depthwise_strided': ((2, 6, 7), (3, 5), (6, 6), 6, (2, 3), 'SAME'),
  'depthwise_doubled': ((2, 5, 4), (3, 3), (3, 6), 3, (1, 2), 'VALID'),
}


def arrays(case, dtype):
  (size, kernel, (i, o), groups, strides, padding), rng = CASES[case], np.random.default_rng(0)
  x, w = rng.normal(size=(*size, i)), rng.normal(size=(*kernel, i // groups, o))
  inputs = {'window_strides': strides, 'padding': padding, 'feature_group_count': groups}
  return jnp.asarray(x, dtype), jnp.asarray(w, dtype), inputs | {'dimension_numbers': NHWC}


def with_gradients(f, x, w):
  """The value and both gradients for a cotangent that no symmetry hides behind."""
  y, pull = jax.vjp(f, x, w)
  return y, *pull(jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))


def compare(case, dtype, tolerance, wrap=lambda f: f):
  x, w, inputs = arrays(case, dtype)
  wide = jnp.promote_types(dtype, jnp.float32)

  @jax.jit
  def both(x, w):
    ours = with_gradients(wrap(partial(conv_general_dilated, **inputs)), x, w)
    theirs = partial(lax.conv_general_dilated, **inputs)
    return ours, with_gradients(theirs, x.astype(wide), w.astype(wide))

  for a, b in zip(*both(x, w), strict=True):
    assert a.dtype == dtype and a.shape == b.shape
    np.testing.assert_allclose(a.astype(b.dtype), b, rtol=0, atol=tolerance * float(jnp.abs(b).max()))


@pytest.mark.parametrize('case', CASES)
def test_float64_is_exact(case):
  with jax.enable_x64(True):
    compare(case, jnp.float64, 1e-14)


@pytest.mark.parametrize('case', ['strided', 'groups', 'depthwise'])
def test_float32(case):
  compare(case, jnp.float32, 1e-6, wrap=jax.checkpoint)


@pytest.mark.parametrize('case', ['plain', 'depthwise_strided'])
def test_bfloat16_is_rounded_once(case):
  compare(case, jnp.bfloat16, 2**-8)


@pytest.mark.parametrize('case', ['strided', 'groups', 'depthwise', 'image', 'wide_strided'])
def test_in_steps(case, monkeypatch):
  monkeypatch.setattr(conv, 'CACHE', 1)
  monkeypatch.setattr(conv, 'PATCHES', 1)
  compare(case, jnp.float32, 1e-6)


@pytest.mark.parametrize(
  'devices, b, size, steps',
  [(1, 64, 2**16, 16), (1, 64, 2**14, 8), (1, 4, 512, 1), (1, 13, 2**20, 13), (8, 64, 2**16, 8)],
)
def test_steps(devices, b, size, steps, monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: devices)
  assert conv._steps(b, size) == steps


@pytest.mark.parametrize('kernel, pad', [(3, 2), (1, 1)])
def test_outputs_larger_than_inputs_make_no_program_of_a_thousand_lines(kernel, pad):
  x, w = jnp.ones((8, 16, 16, 4)), jnp.ones((kernel, kernel, 4, 8))
  f = partial(conv_general_dilated, window_strides=(1, 1), padding=((pad, pad),) * 2, dimension_numbers=NHWC)
  assert len(str(jax.make_jaxpr(partial(with_gradients, f))(x, w)).splitlines()) < 200


def test_vmap_and_scan():
  x, w, inputs = arrays('strided', jnp.float32)
  ws = jnp.stack([w, 2 * w])
  f = jax.grad(lambda w, c: jnp.sum(jnp.sin(c(x, w, **inputs))))
  expected = jnp.stack([f(v, lax.conv_general_dilated) for v in ws])
  ours = jax.jit(
    lambda ws: (
      jax.vmap(lambda w: f(w, conv_general_dilated))(ws),
      lax.map(lambda w: f(w, conv_general_dilated), ws),
    )
  )
  for got in ours(ws):
    np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize('case', ['strided', 'depthwise'])
def test_second_derivative(case):
  x, w, inputs = arrays(case, jnp.float32)

  def curvature(c):
    slope = jax.grad(lambda x: jnp.sum(c(x, w, **inputs) ** 3))
    return jax.jit(jax.grad(lambda x: jnp.sum(slope(x) ** 2)))(x)

  expected = curvature(lax.conv_general_dilated)
  np.testing.assert_allclose(
    curvature(conv_general_dilated), expected, rtol=1e-4, atol=1e-5 * float(expected.max())
  )


def test_a_split_batch(eight_devices, monkeypatch):
  monkeypatch.setattr(conv, 'CACHE', 1)
  x, w = jnp.ones((16, 4, 4, 2)).at[3].set(2), jnp.ones((3, 3, 2, 2))
  mesh = jax.make_mesh((8,), ('data',), (jax.sharding.AxisType.Auto,))
  f = jax.jit(
    jax.grad(lambda w, x: jnp.sum(conv_general_dilated(x, w, (1, 1), 'SAME', dimension_numbers=NHWC) ** 2))
  )
  np.testing.assert_allclose(
    f(w, jax.device_put(x, NamedSharding(mesh, PartitionSpec('data')))), f(w, x), rtol=1e-6
  )


def test_the_rest_is_left_to_lax(monkeypatch):
  x, w = jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4, 4))

  def steps(*arrays, **options):
    options = {'window_strides': (1,) * (arrays[0].ndim - 2), 'padding': 'VALID'} | options
    jaxpr = jax.make_jaxpr(lambda *a: conv_general_dilated(*a, **options))(*arrays)
    return [str(e.primitive) for e in jaxpr.eqns]

  assert steps(x, w, dimension_numbers=NHWC) == ['custom_vjp_call']
  assert steps(x, w, dimension_numbers=NHWC, rhs_dilation=(2, 2)) == ['conv_general_dilated']
  assert steps(x, w, dimension_numbers=NHWC, padding=((-1, 0), (0, 0))) == ['conv_general_dilated']
  assert steps(x, jnp.ones((4, 6, 3, 3))) == ['conv_general_dilated']  # NCHW
  assert steps(x[0], w[0], dimension_numbers=('NWC', 'WIO', 'NWC')) == ['conv_general_dilated']
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert steps(x, w, dimension_numbers=NHWC) == ['conv_general_dilated']


@pytest.mark.parametrize(
  'given', [{}, {'strides': 2}, {'feature_group_count': 4}, {'padding': 'CIRCULAR'}, {'kernel_dilation': 2}]
)
def test_layer(given):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8, 8, 4)), jnp.float32)  # two axes of batch
  layers = Conv(8, (3, 3), **given), nn.Conv(8, (3, 3), **given)
  kernel = np.random.default_rng(1).normal(size=(3, 3, 4 // given.get('feature_group_count', 1), 8))
  variables = {'params': {'kernel': jnp.asarray(kernel, jnp.float32), 'bias': jnp.arange(8.0)}}
  ours, theirs = (layer.apply(variables, x) for layer in layers)
  np.testing.assert_allclose(ours, theirs, atol=2e-5)
