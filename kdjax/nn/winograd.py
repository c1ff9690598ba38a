"""3×3 convolutions of stride 1 in 16 multiplications where a plain one takes 36: Winograd's F(2×2, 3×3).

Lavin and Gray, arXiv 1509.09308. A tile of 4 × 4 inputs, and a kernel, become 16 numbers a channel by
additions (and halves); 16 matmuls over all tiles multiply them; 2 × 2 outputs are sums of what comes out.
In float32 the result is as exact as that of a plain convolution. Matmuls are what XLA:CPU is best at, so it
takes down to half the time, once the channels are many enough to outweigh the additions. The price is in
compiling: a tenth of a second a layer, and a batch of a prime number is taken an image at a time.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

INPUTS = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])  # B^T, A^T and G of the paper
OUTPUTS = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
CONV, GRAD = 2**11, 2**13  # pairs of channels from which it, and its kernel's gradient, are faster
PIXELS = 2**10  # and the least pixels, of the whole batch
CACHE = 2**19  # elements of input or output that are taken at a time: 4 times as many lie in between


def pays(x, w, pads, pairs=CONV) -> bool:
  """Whether this is the faster convolution of stride 1, for x `[B, H, W, C]` and w `[h, w, C, O]`, shapes."""
  fits = w[:2] == (3, 3) and all(0 <= p <= 2 for p in (*pads[0], *pads[1]))
  return fits and min(w[2:]) >= 32 and w[2] * w[3] >= pairs and np.prod(x[:3]) >= PIXELS


@partial(jax.jit, static_argnums=(2, 3))
def conv(x, w, pads, precision=None):
  """The convolution of x `[B, H, W, C]`, padded by `pads`, with w `[3, 3, C, O]` -> `[B, H', W', O]`."""
  c, o = w.shape[2:]
  height, width = _outputs(x, pads)
  kernels = _transform(KERNEL, w)

  def part(x):
    def dot(tiles, kernel):
      return jnp.dot(tiles.reshape(-1, c), kernel, precision=precision).reshape(*tiles.shape[:3], o)

    y = _transform(OUTPUTS, _map_tiles(dot, _tiles(x, pads), kernels))
    y = jnp.stack([jnp.stack(row, 3) for row in y], 2)
    return y.reshape(len(x), 2 * y.shape[1], -1, o)[:, :height, :width]

  return in_steps(part, x, max(x.size // len(x), height * width * o))


@partial(jax.jit, static_argnums=(2, 3))
def kernel_grad(x, y, pads, precision=None):
  """The gradient `[3, 3, C, O]` of the kernel, from x `[B, H, W, C]` and the cotangent `[B, H', W', O]`."""

  def dot(a, b):
    if a.shape[1] * a.shape[2] < max(a.shape[3], b.shape[3]):
      a, b = (t.reshape(-1, t.shape[3]) for t in (a, b))
      return lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision)
    a, b = (t.reshape(len(t), -1, t.shape[3]) for t in (a, b))
    return lax.dot_general(a, b, (((1,), (1,)), ((0,), (0,))), precision).sum(0)

  def part(x, y):
    return _map_tiles(dot, _tiles(x, pads), _cotangents(y))

  dots = summed(part, (x, y), _examples_at_once(len(x), max(x.size, y.size) // len(x)))
  return jnp.stack([jnp.stack(row) for row in _transform(KERNEL.T, dots)])


def _outputs(x, pads):
  return tuple(n + sum(p) - 2 for n, p in zip(x.shape[1:3], pads, strict=True))


def _tiles(x, pads):
  """[4][4] arrays `[B, tiles down, tiles across, C]`: the inputs of every tile, transformed."""
  n, m = (-(-size // 2) for size in _outputs(x, pads))
  ends = (2 * k + 2 - size - low for k, size, (low, _) in zip((n, m), x.shape[1:3], pads, strict=True))
  sides = zip((low for low, _ in pads), ends, strict=True)
  x = jnp.pad(x, ((0, 0), *sides, (0, 0))).reshape(len(x), n + 1, 2, m + 1, 2, -1)
  rows = [x[:, i // 2 : i // 2 + n, i % 2] for i in range(4)]
  return _transform(INPUTS, [[row[:, :, j // 2 : j // 2 + m, j % 2] for j in range(4)] for row in rows])


def _cotangents(y):
  """[4][4] arrays `[B, tiles down, tiles across, O]`: the cotangents of the products, from the outputs'."""
  b, height, width, o = y.shape
  n, m = -(-height // 2), -(-width // 2)
  y = jnp.pad(y, ((0, 0), (0, 2 * n - height), (0, 2 * m - width), (0, 0))).reshape(b, n, 2, m, 2, o)
  return _transform(OUTPUTS.T, [[y[:, :, i, :, j] for j in range(2)] for i in range(2)])


def _map_tiles(f, *tables):
  return [[f(*items) for items in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]


def _transform(m, x):
  """The rows of m x m^T, of x whose elements are arrays: sums that leave the zeros out."""

  def total(weights, items):
    pairs = zip(weights, items, strict=True)
    first, *others = (a if w == 1 else -a if w == -1 else w.astype(a.dtype) * a for w, a in pairs if w)
    return sum(others, first)

  half = [[total(weights, column) for column in zip(*x, strict=True)] for weights in m]
  return [[total(weights, row) for weights in m] for row in half]


def in_steps(f, x, size, most=CACHE):
  """f of x `[B, ...]` -> `[B, ...]`, of as many examples at a time as hold `most` elements, `size` each."""
  k = _examples_at_once(len(x), size, most)
  if k == len(x):
    return f(x)
  x = _in_parts(x, k)
  y = jax.eval_shape(f, x[:, 0])
  y = jnp.zeros((k, x.shape[1], *y.shape[1:]), y.dtype)

  def step(i, y):
    part = f(lax.dynamic_index_in_dim(x, i, 1, keepdims=False))
    return lax.dynamic_update_index_in_dim(y, part, i, 1)

  y = lax.fori_loop(0, x.shape[1], step, y)
  return y.reshape(-1, *y.shape[2:])


def summed(f, arrays, k):
  """The sum of f, an array or a tree of them, over k examples of the arrays `[B, ...]` at a time."""
  if k == len(arrays[0]):
    return f(*arrays)
  parts = [_in_parts(a, k) for a in arrays]
  zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(f, *(a[:, 0] for a in parts)))

  def add(i, total):
    part = f(*(lax.dynamic_index_in_dim(a, i, 1, keepdims=False) for a in parts))
    return jax.tree.map(jnp.add, total, part)

  return lax.fori_loop(0, parts[0].shape[1], add, zeros)


def _in_parts(x, k):
  """x `[B, ...]` as `[k, n, ...]`: step i takes every n-th, so that a batch split over devices stays."""
  return x.reshape(k, -1, *x.shape[1:])


def _examples_at_once(b, size, most=CACHE):
  """How many of b examples to take at a time: as many of each device, where they are split over several."""
  n = math.gcd(b, jax.device_count())
  return max(d for d in range(n, b + 1, n) if b % d == 0 and (d * size <= most or d == n))
