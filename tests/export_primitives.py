"""One function of each kind that the formats translate, together as one program."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdjax.export import program as export_program

INPUTS = {
  'image': ((6, 7, 4), 'float32'),
  'i': ((5,), 'int32'),
  'j': ((5,), 'int32'),
  'm': ((5,), 'bool'),
  'u': ((5,), 'uint32'),
  'x': ((4, 6), 'float32'),
  'y': ((4, 6), 'float32'),
}
OF_X = 'abs atan asinh ceil cos cosh erf erfc exp exp2 expm1 floor logistic neg sign sin sinh'
OF_Y = 'acos asin atanh log log1p rsqrt sqrt tan'  # which is between 0.1 and 0.9
OF_TWO = 'add sub mul div max min rem'
COMPARED = 'eq ne lt le gt ge'
BITS = 'bitwise_and bitwise_or bitwise_xor'


def of(names, *keys):
  """The functions of jax.lax, of those inputs."""
  return {
    f'{name}_{keys[0]}': functools.partial(lambda f, a: f(*(a[k] for k in keys)), getattr(lax, name))
    for name in names.split()
  }


def _image(x, **options):
  return {
    'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'),
    'window_strides': (1, 1),
    'padding': 'SAME',
  } | options


def conv(x, shape, **options):
  kernel = jnp.asarray(np.random.default_rng(0).standard_normal(shape) / 4, x.dtype)
  return lax.conv_general_dilated(x, kernel, **_image(x, **options))


def normalized(x, fast=True, **options):
  """A layer norm, its weights from 1 on."""
  size = x.shape[-1]
  weights = {'scale': jnp.arange(1.0, 1 + size) / size, 'bias': jnp.arange(1.0, 1 + size)}
  weights = {k: v for k, v in weights.items() if options.get(f'use_{k}', True)}
  return nn.LayerNorm(use_fast_variance=fast, **options).apply({'params': weights}, x)


@jax.custom_vjp
def own_gradient(x):
  return x * 3


own_gradient.defvjp(lambda x: (x * 3, None), lambda _, g: (g,))


PRIMITIVES = {
  **of(OF_X, 'x'),
  **of(OF_Y, 'y'),
  **of(OF_TWO, 'x', 'y'),
  **of(f'{OF_TWO} {COMPARED} {BITS}', 'i', 'j'),
  'acosh': lambda a: lax.acosh(1 + a['y']),
  'cbrt': lambda a: lax.cbrt(a['x']),
  'tanh': lambda a: jnp.tanh(a['x']),
  'square': lambda a: a['x'] ** 2,
  'cube': lambda a: a['x'] ** 3,
  'inverse': lambda a: a['y'] ** -1,
  'pow': lambda a: a['y'] ** a['x'],
  'round': lambda a: jnp.round(a['x'] * 4) + jnp.round(a['i'] / 2).sum(1)[:, None, None],
  'finite': lambda a: jnp.isfinite(jnp.log(a['x'])),
  'modulo': lambda a: a['i'] % a['j'] + a['i'] // a['j'],
  'float_modulo': lambda a: a['x'] % a['y'],
  'not': lambda a: ~(a['m'] ^ (a['i'] > 2)) | (a['m'] & (a['j'] < 4)),
  'bits_not': lambda a: ~a['i'],
  'clamp': lambda a: jnp.clip(a['x'], -0.3, 0.4) + lax.clamp(a['y'] - 1, a['x'], a['y']),
  'least': lambda a: (
    jnp.minimum(a['x'], 0.5) + jnp.maximum(a['x'], 0.1) + jnp.maximum(a['i'], 3).sum(1)[:, None, None]
  ),
  'where': lambda a: jnp.where(a['m'], a['i'], a['j']),
  'where_bool': lambda a: jnp.where(a['m'], a['i'] > 3, a['j'] > 3),
  'where_number': lambda a: jnp.where(a['m'], 1.5, 0.25),
  'cast': lambda a: a['m'].astype(jnp.float32) + a['x'][:, 0, :5].astype(jnp.int32) + a['i'].astype(bool),
  'u_mul': lambda a: a['u'] * a['u'] * jnp.uint32(2654435761),
  'u_add': lambda a: a['u'] + a['u'] - jnp.uint32(77),
  'u_hash': lambda a: a['u'] ^ (a['u'] >> 13) ^ (a['u'] << 7) ^ ~a['u'],
  'u_parts': lambda a: a['u'] % 1000 + a['u'] // 7 + jnp.maximum(a['u'], 5) + (a['u'] & 255) + (a['u'] | 9),
  'u_cast': lambda a: a['i'].astype(jnp.uint32) * 3 + a['m'].astype(jnp.uint32),
  'u_number': lambda a: a['u'].astype(jnp.float32) * (a['u'] > 5) + a['u'].astype(jnp.int32),
  'u_sum': lambda a: a['u'].sum(1),
  'sums': lambda a: a['x'].sum(1) + a['x'].mean(1) + a['x'].max(1) + a['x'].min(1) + a['y'].prod(1),
  'kept': lambda a: a['x'] - a['x'].mean((1, 2), keepdims=True),
  'any': lambda a: a['m'].any(1) ^ (a['m'] | (a['i'] > -50)).all(1),
  'places': lambda a: a['x'].argmax(1) + a['x'].argmin(2).sum(1)[:, None] + a['m'].argmax(1)[:, None],
  'cumsum': lambda a: (
    jnp.cumsum(a['x'], 1) + lax.cumsum(a['x'], 2, reverse=True) + jnp.cumsum(a['i'], 1)[:, 1:, None]
  ),
  'rev': lambda a: a['x'][:, ::-1, ::-1],
  'roll': lambda a: jnp.roll(a['x'], (1, 2), (1, 2)),
  'pad': lambda a: jnp.pad(a['x'], ((0, 0), (1, 2), (0, 1)), constant_values=0.5),
  'crop': lambda a: lax.pad(a['x'], 0.25, ((0, 0, 0), (-1, 2, 0), (1, -3, 0))),
  'slices': lambda a: a['x'][:, 1:3, ::2] + a['x'][:, 2:, 3:],
  'split': lambda a: jnp.multiply(*jnp.split(a['x'], 2, 2)),
  'corner': lambda a: a['x'][:, 1, -2],
  'take': lambda a: a['x'][:, :, jnp.array([4, 0, 4])] + jnp.take(a['x'], jnp.array([[1, 2, 3]]), 2)[:, :, 0],
  'grid': lambda a: a['image'][:, jnp.array([[1], [3]]), jnp.array([[0, 2, 6]])],
  'along': lambda a: jnp.take_along_axis(a['x'], jnp.abs(a['i'])[:, :4, None] % 6, 2),
  'rows': lambda a: jnp.take_along_axis(a['image'], jnp.abs(a['i'])[:, :2, None, None] % 6, 1),
  'row': lambda a: jnp.take_along_axis(a['x'], jnp.abs(a['i'][:, :1, None]) % 4, 1),
  'table': lambda a: jnp.take(jnp.arange(40.0).reshape(20, 2), jnp.abs(a['i']) % 20, 0, mode='clip'),
  'pairs': lambda a: jnp.einsum('bij,bkj->bik', a['x'], a['y']),
  'heads': lambda a: jnp.einsum('bqhd,bkhd->bhqk', a['image'], a['image']),
  'mixed': lambda a: jnp.einsum('bhqk,bkhd->bqhd', a['image'], a['x'][..., None] * jnp.arange(2.0)),
  'left': lambda a: jnp.einsum('kj,bij->bki', jnp.arange(18.0).reshape(3, 6) / 9, a['x']),
  'several': lambda a: jnp.einsum('bhwc,hcwo->bo', a['image'], jnp.arange(336.0).reshape(6, 4, 7, 2) / 99),
  'flat': lambda a: (a['x'].reshape(-1, 6) @ jnp.ones((6, 3))).reshape(-1, 4, 3),
  'vector': lambda a: a['x'] @ jnp.arange(6.0),
  'inner': lambda a: jnp.einsum('bi,bi->b', a['x'][:, 0], a['y'][:, 1]),
  'ones': lambda a: jnp.full((a['x'].shape[0], 3), 2.5),
  'token': lambda a: jnp.concatenate([jnp.broadcast_to(jnp.arange(6.0), (a['x'].shape[0], 1, 6)), a['x']], 1),
  'conv': lambda a: nn.relu(conv(a['image'], (3, 3, 4, 5)) + jnp.arange(5.0)).mean((1, 2)),
  'strided': lambda a: conv(a['image'], (3, 2, 4, 5), window_strides=(2, 3), padding=((1, 0), (2, 1))),
  'dilated': lambda a: conv(a['image'], (2, 2, 4, 3), rhs_dilation=(2, 3), padding='VALID'),
  'grouped': lambda a: conv(a['image'], (3, 3, 2, 6), feature_group_count=2),
  'depthwise': lambda a: conv(a['image'], (3, 3, 1, 4), feature_group_count=4) * a['image'],
  'multiplier': lambda a: conv(a['image'], (3, 3, 1, 8), feature_group_count=4),
  'channels_first': lambda a: conv(a['image'], (6, 6, 3, 3), dimension_numbers=('NCHW', 'OIHW', 'NCHW')),
  'conv1d': lambda a: conv(
    a['x'], (3, 6, 2), dimension_numbers=('NWC', 'WIO', 'NWC'), window_strides=(2,), padding=((1, 1),)
  ),
  'scaled': lambda a: conv(a['image'], (1, 1, 4, 4)) * a['y'][:, None, None, 0, :4] + a['image'],
  'shuffled': lambda a: conv(
    conv(a['image'], (1, 1, 4, 6)).reshape(-1, 6, 7, 2, 3).transpose(0, 1, 2, 4, 3).reshape(-1, 6, 7, 6),
    (1, 1, 6, 2),
  ),
  'grouped_mean': lambda a: conv(a['image'], (1, 1, 4, 6)).reshape(-1, 6, 7, 2, 3).mean((1, 2, 4)),
  'merged': lambda a: conv(a['image'], (1, 1, 4, 6)).reshape(-1, 42, 6),
  'cut': lambda a: jnp.concatenate([conv(a['image'], (1, 1, 4, 6))[:, 1:, :, :4], a['image'][:, 1:]], 3),
  'pooled': lambda a: nn.max_pool(a['image'], (3, 2), (2, 2), 'SAME'),
  'averaged': lambda a: nn.avg_pool(a['image'], (3, 3), (2, 2), ((1, 1), (1, 1))),
  'summed': lambda a: lax.reduce_window(a['image'], 0.0, lax.add, (1, 2, 2, 1), (1, 1, 2, 1), 'VALID'),
  'layer_norm': lambda a: normalized(a['x']),
  'layer_norm_plain': lambda a: normalized(a['x'], use_bias=False) + normalized(a['x'], fast=False),
  'instance_norm': lambda a: normalized(a['image'], reduction_axes=(1, 2)),
  'softmax': lambda a: nn.softmax(a['x'], 1) + nn.softmax(a['x']) + nn.softmax(a['x'], (1, 2)),
  'gelu': lambda a: nn.gelu(a['x'], approximate=True) + nn.gelu(a['x'], approximate=False) + nn.silu(a['x']),
  'spectrum': lambda a: jnp.square(jnp.fft.rfft(a['x']).real) + jnp.fft.rfft(a['x']).imag,
  'odd_spectrum': lambda a: jnp.fft.rfft(a['x'][..., :5]).imag,
  'remat': lambda a: jax.checkpoint(lambda x: jnp.sin(x) * 2)(a['x']),
  'custom': lambda a: own_gradient(a['x']),
  'pixels': lambda a: ((a['image'] / 127.5 - 1) / 2 + 0.5 - jnp.arange(4.0)) / jnp.arange(1.0, 5.0),
  'from_one': lambda a: 2 * (1 - (3 - a['x']) * 4),
  'kept_input': lambda a: a['x'],
}


@functools.cache
def program():
  """All PRIMITIVES as one program."""

  def apply(variables, arrays):
    return {name: function(arrays) for name, function in PRIMITIVES.items()}

  return export_program.make(apply, {}, INPUTS, tuple(PRIMITIVES))


def inputs(rows):
  rng, arrays = np.random.default_rng(rows), {}
  for key, (shape, dtype) in INPUTS.items():
    numbers = rng.standard_normal((rows, *shape))
    whole = rng.integers(-20, 20, numbers.shape)
    arrays[key] = {
      'i': whole,
      'j': 1 + np.abs(whole) % 7,
      'm': whole > 0,
      'u': rng.integers(0, 2**32, numbers.shape),
      'y': 0.1 + 0.8 / (1 + np.abs(numbers)),
    }.get(key, numbers).astype(dtype)
  return arrays


REFUSED = {
  'scan': lambda x: lax.scan(lambda c, r: (c + r, None), x[:, 0], x.transpose(1, 0, 2))[0],
  'sort': lambda x: jnp.sort(x, 1),
  'digamma': lax.digamma,
  'dynamic_slice': lambda x: lax.dynamic_slice_in_dim(x, x.sum().astype(int), 2, 1),
}


def refused(primitive):
  """A program with a primitive that no format translates."""

  def apply(variables, arrays):
    return {'embed': REFUSED[primitive](arrays['x'])}

  return export_program.make(apply, {}, {'x': ((4, 6), 'float32')}, ('embed',))
