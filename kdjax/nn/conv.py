"""A 2-D convolution that is fast on XLA:CPU, with fast gradients: strided, 1×1, grouped, inside loops.

XLA:CPU is fastest at matmuls, so most convolutions are written as such: 1×1; 3×3 between many channels, by
`kdjax.nn.winograd`; few input channels, strides, and kernels larger than the map, by patches (im2col).

All others are XLA's own, which is fast in the layout NHWC × HWIO -> NHWC. XLA brings the gradients into
that layout only outside of `scan`, `while` and `cond`, and never grouped ones: else it runs a naive loop, up
to 150 times slower. Here the gradients are written in that layout:

- kernel: the batch takes the place of the channels, and the cotangent that of the kernel, a few images at a
  time. They fit in the cache, and the loop makes XLA read the input from memory; else it fuses the layers
  before into the transposition of the input, and computes them again, in the slow order;
- input: one convolution for each phase of the stride, instead of one over a cotangent full of zeros;
- depthwise: a sum of shifted products; groups: one dense convolution for a block of them.

The results are those of `jax.lax.conv_general_dilated` up to rounding.
"""

import math
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kdjax.nn import losses, winograd

NHWC = ('NHWC', 'HWIO', 'NHWC')
BLOCK = 32  # channels from which a dense convolution reaches its speed: thinner groups are joined
PATCHES = 2**21  # elements of the patches in memory at a time
CACHE = 2**18  # elements of the input or the cotangent that the kernel's gradient takes at a time
plain = jax.make_user_context(False)  # `with plain(True)` leaves all to lax, to count a model's arithmetic
portable = jax.make_user_context(False)  # `with portable(True)` uses only what other runtimes have too


class Spec(NamedTuple):
  strides: tuple[int, int]
  pads: tuple[tuple[int, int], tuple[int, int]]
  groups: int
  precision: lax.PrecisionLike


def conv_general_dilated(
  lhs,
  rhs,
  window_strides,
  padding,
  lhs_dilation=None,
  rhs_dilation=None,
  dimension_numbers=None,
  feature_group_count=1,
  batch_group_count=1,
  precision=None,
  preferred_element_type=None,
):
  """`jax.lax.conv_general_dilated`, faster where JAX runs on CPU.

  Covered are floats `[B, H, W, C]` × `[h, w, C / groups, O]` -> `[B, H', W', O]` without dilation, of any
  stride and any padding >= 0; bfloat16 and float16 are computed in float32. All else is left to lax, and so
  is every other platform, that of `jax.default_backend()` when the call is traced. What is covered has
  first and second derivatives by `grad`, but no forward mode (`jvp`), and no `shard_map` that checks.
  """
  dilated = {1} != {1, *(lhs_dilation or ()), *(rhs_dilation or ())}
  unsupported = dilated or batch_group_count != 1 or preferred_element_type is not None
  floats = lhs.dtype == rhs.dtype and jnp.issubdtype(lhs.dtype, jnp.floating)
  on_cpu = jax.default_backend() == 'cpu' and not plain.value and not portable.value
  if on_cpu and floats and not unsupported and lhs.ndim == 4 and lhs.size and rhs.size:
    sizes = lhs.shape[1:3], rhs.shape[:2]
    text = isinstance(padding, str)
    pads = lax.padtype_to_pads(*sizes, window_strides, padding) if text else padding
    rows, columns = ((int(lo), int(hi)) for lo, hi in pads)
    pads = rows, columns
    channels_match = (
      lhs.shape[3] == rhs.shape[2] * feature_group_count and rhs.shape[3] % feature_group_count == 0
    )
    fits = all(lo >= 0 and hi >= 0 and lo + n + hi >= k for n, k, (lo, hi) in zip(*sizes, pads, strict=True))
    numbers = (lax.conv_dimension_numbers(lhs.shape, rhs.shape, n) for n in (dimension_numbers, NHWC))
    if channels_match and fits and len(set(numbers)) == 1:
      spec = Spec(tuple(window_strides), pads, feature_group_count, precision)
      dtype = jnp.promote_types(lhs.dtype, jnp.float32)
      return _conv(lhs.astype(dtype), rhs.astype(dtype), spec).astype(lhs.dtype)
  return lax.conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    lhs_dilation,
    rhs_dilation,
    dimension_numbers,
    feature_group_count,
    batch_group_count,
    precision,
    preferred_element_type,
  )


Conv = partial(nn.Conv, conv_general_dilated=conv_general_dilated)


def _dense(x, w, pads, spec, strides=(1, 1), dilation=(1, 1)):
  if dilation == (1, 1):
    if w.shape[:2] == (1, 1) and strides == (1, 1) and not any(map(any, pads)):
      return jnp.dot(x, w[0, 0], precision=spec.precision)
    if strides == (1, 1) and winograd.pays(x.shape, w.shape, pads):
      return winograd.conv(x, w, pads, spec.precision)
    if _few_channels(w) or _larger_than_map(w, x) or (strides != (1, 1) and min(w.shape[2:]) >= 64):
      return _by_patches(x, w, pads, strides, spec.precision)
  return lax.conv_general_dilated(
    x, w, strides, pads, rhs_dilation=dilation, dimension_numbers=NHWC, precision=spec.precision
  )


def _few_channels(w):
  """Whether the kernel has the channels of an image, and at most 80 weights an output: 5×5×3, not 7×7×3."""
  return 2 < w.shape[2] < 9 and w.size <= 80 * w.shape[3]


def _larger_than_map(w, x):
  """Whether the kernel is larger than the map, for which XLA has a naive loop, and not too many taps."""
  return w.shape[0] * w.shape[1] <= 25 and any(k > n for k, n in zip(w.shape, x.shape[1:3], strict=False))


def _kernel_taps(x, w, pads, strides):
  """For each position of the kernel, the inputs that it multiplies: x, padded, shifted and strided."""
  (h, v), (s, r) = w.shape[:2], strides
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)))
  rows, columns = x.shape[1] - h + 1, x.shape[2] - v + 1
  return [x[:, i : i + rows : s, j : j + columns : r] for i in range(h) for j in range(v)]


def _by_patches(x, w, pads, strides, precision):
  """One matmul with the inputs of every output side by side, some images at a time."""
  h, v, c, o = w.shape

  def part(x):
    patches = jnp.concatenate(_kernel_taps(x, w, pads, strides), 3)
    y = jnp.dot(patches.reshape(-1, h * v * c), w.reshape(-1, o), precision=precision)
    return y.reshape(*patches.shape[:3], o)

  outs = [(n + sum(p) - k) // t + 1 for n, p, k, t in zip(x.shape[1:3], pads, (h, v), strides, strict=True)]
  return winograd.in_steps(part, x, outs[0] * outs[1] * h * v * c, PATCHES)


def _forward(x, w, spec) -> jax.Array:
  if spec.groups == 1:
    return _dense(x, w, spec.pads, spec, spec.strides)
  if spec.groups == x.shape[3] == w.shape[3]:
    return _shifted(x, w, spec)
  blocks = zip(*_blocks(x, w, spec.groups), strict=True)
  return jnp.concatenate([_dense(a, b, spec.pads, spec, spec.strides) for a, b in blocks], 3)


def _bwd(spec, residuals, y):
  x, w = residuals
  if spec.groups == 1:
    return _input_grad(y, w, x.shape, spec), _kernel_grad(x, y, w.shape, spec)
  n = _groups_per_block(w, spec.groups)
  xs, ws = _blocks(x, w, spec.groups)
  ys = jnp.split(y, len(xs), 3)
  if spec.groups == x.shape[3] == w.shape[3]:
    (dx,) = jax.linear_transpose(lambda x: _shifted(x, w, spec), x)(y)
  else:
    dx = jnp.concatenate([_input_grad(b, k, a.shape, spec) for a, k, b in zip(xs, ws, ys, strict=True)], 3)
  dw = [_diagonal(_kernel_grad(a, b, ws[0].shape, spec), n) for a, b in zip(xs, ys, strict=True)]
  return dx, jnp.concatenate(dw, 3)


_conv = jax.custom_vjp(_forward, nondiff_argnums=(2,))
_conv.defvjp(lambda x, w, spec: (_forward(x, w, spec), (x, w)), _bwd)


def _kernel_grad(x, y, shape, spec):
  """The gradient `[h, w, C, O]` of the kernel, from x `[B, H, W, C]` and the cotangent `[B, H', W', O]`."""
  if shape[:2] == (1, 1) and spec.pads == ((0, 0), (0, 0)):
    x = x[:, :: spec.strides[0], :: spec.strides[1]]
    return lax.dot_general(x, y, (((0, 1, 2), (0, 1, 2)), ((), ())), spec.precision)[None, None]
  if spec.strides == (1, 1) and winograd.pays(x.shape, shape, spec.pads, winograd.GRAD):
    return winograd.kernel_grad(x, y, spec.pads, spec.precision)
  sizes = zip(x.shape[1:3], y.shape[1:3], shape, spec.strides, spec.pads, strict=False)
  pads = [(lo, (m - 1) * s + k - n - lo) for n, m, k, s, (lo, _) in sizes]

  def part(x, y):
    return _dense(x.transpose(3, 1, 2, 0), y.transpose(1, 2, 0, 3), pads, spec, dilation=spec.strides)

  n = _steps(len(x), max(x.size, y.size) // len(x))
  return winograd.summed(part, (x, y), len(x) // n).transpose(1, 2, 0, 3)


def _steps(b, size):
  """In how many steps to take b images of `size` elements: 1 if all fit in the cache, else 8 or more."""
  most, n = min(max(1, CACHE // size), -(-b // 8)), math.gcd(b, jax.device_count())
  return 1 if b * size <= CACHE else b // max(d for d in range(n, max(most, n) + 1, n) if b % d == 0)


def _input_grad(y, w, shape, spec):
  """The gradient of the input, `shape` [B, H, W, C], from the cotangent `[B, H', W', O]` and the kernel."""
  (b, height, width, c), (s, r) = shape, spec.strides
  if w.shape[:2] == (1, 1) and spec.pads == ((0, 0), (0, 0)):
    grad = lax.dot_general(y, w[0, 0], (((3,), (1,)), ((), ())), spec.precision)
    sizes = zip(shape[1:3], y.shape[1:3], spec.strides, strict=True)
    ends = ((0, n - ((m - 1) * stride + 1), stride - 1) for n, m, stride in sizes)
    return lax.pad(grad, jnp.zeros((), grad.dtype), ((0, 0, 0), *ends, (0, 0, 0)))
  k = w.transpose(0, 1, 3, 2)
  n, m = -(-height // s), -(-width // r)
  rows = [_phase(a, height, y.shape[1], w.shape[0], s, spec.pads[0][0]) for a in range(s)]
  columns = [_phase(a, width, y.shape[2], w.shape[1], r, spec.pads[1][0]) for a in range(r)]

  def part(row, column):
    (i, up), (j, left) = row, column
    kernel = k[i::s, j::r][::-1, ::-1]
    if not kernel.size:
      return jnp.zeros((b, n, m, c), y.dtype)
    return _dense(y, kernel, (up, left), spec)

  grad = jnp.stack([jnp.stack([part(i, j) for j in columns], 3) for i in rows], 2)
  return grad.reshape(b, n * s, m * r, c)[:, :height, :width]


def _phase(phase, size, out, kernel, stride, low):
  """The first kernel position that reads inputs at `phase` of the stride; the padding of the cotangent."""
  first = (phase + low) % stride
  taps = len(range(first, kernel, stride))
  begin = taps - 1 - (phase + low - first) // stride
  return first, (begin, -(-size // stride) + taps - 1 - out - begin)


def _shifted(x, w, spec):
  """Depthwise: one fused sum over the taps, each a product with the padded input, shifted."""
  taps = _kernel_taps(x, w, spec.pads, spec.strides)
  return losses.total(tap * k for tap, k in zip(taps, w.reshape(len(taps), -1), strict=True))


def _groups_per_block(w, groups):
  """How many groups make a block of about `BLOCK` channels."""
  thin = max(1, BLOCK // w.shape[2])
  return max(n for n in range(1, thin + 1) if groups % n == 0)


def _blocks(x, w, groups):
  """Input and kernel of each block of groups; inside a block the kernel is dense, zero across groups."""
  n = _groups_per_block(w, groups)
  h, v, i, _ = w.shape
  same = jnp.eye(n, dtype=w.dtype).reshape(n, 1, n, 1)
  kernels = jnp.split(w, groups // n, 3)
  dense = [(k.reshape(h, v, 1, i, n, -1) * same).reshape(h, v, n * i, -1) if n > 1 else k for k in kernels]
  return jnp.split(x, groups // n, 3), dense


def _diagonal(grad, n):
  """The gradient `[h, w, I, O]` of a block's kernel, from that of its dense kernel `[h, w, n I, O]`."""
  h, v, i, o = grad.shape
  grad = grad.reshape(h, v, n, i // n, n, o // n)
  return jnp.concatenate([grad[:, :, j, :, j] for j in range(n)], 3)
