"""Learned layers between a student's and a teacher's taps, for methods of any family."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import losses
from kdjax.nn.conv import Conv


def forward(module: nn.Module, params: Any, *inputs: Any) -> Any:
  """The outputs of a module that has parameters alone, for `inputs`."""
  return module.apply({'params': params}, *inputs)


class TowerProjection(nn.Module):
  """Maps an image and a text embedding `[B, D]` to `width`, each by a linear layer where D differs."""

  width: int

  @nn.compact
  def __call__(self, image, text):
    if image.shape[-1] == self.width:
      return image, text
    return (
      nn.Dense(self.width, dtype=image.dtype, name='image')(image),
      nn.Dense(self.width, dtype=text.dtype, name='text')(text),
    )


class TwoEmbeddings(nn.Module):
  """A linear layer to `dim` for the student's tap and one for the teacher's: [B, ...] -> [B, dim]."""

  dim: int

  @nn.compact
  def __call__(self, student, teacher):
    student, teacher = losses.flatten(student), losses.flatten(teacher)
    return (
      nn.Dense(self.dim, dtype=student.dtype, name='student')(student),
      nn.Dense(self.dim, dtype=teacher.dtype, name='teacher')(teacher),
    )


class Align(nn.Module):
  """Maps the student's feature of each pair to the teacher's width, by a linear layer where they differ.

  On maps `[B, H, W, C]` that is a 1×1 convolution. With `always`, equal widths get a layer too.
  """

  always: bool = False

  @nn.compact
  def __call__(self, pairs):
    out = []
    for i, (a, b) in enumerate(pairs):
      if self.always or a.shape[-1] != b.shape[-1]:
        a = nn.Dense(b.shape[-1], dtype=a.dtype, name=f'stage{i}')(a)
      out.append((a, b))
    return out


class Heads(nn.Module):
  """A projection of the student's feature for each of several teachers: an MLP of one hidden layer."""

  widths: tuple[int, ...]
  hidden: int

  @nn.compact
  def __call__(self, x):
    heads = []
    for i, width in enumerate(self.widths):
      y = nn.gelu(nn.Dense(self.hidden, dtype=x.dtype, name=f'hidden{i}')(x))
      heads.append(nn.Dense(width, dtype=x.dtype, name=f'out{i}')(y))
    return heads


class BatchNorm(nn.Module):
  """Batch norm over all axes but the last, by the statistics of the batch without examples of mask 0.

  There are no running statistics, since it is applied in training alone.
  """

  @nn.compact
  def __call__(self, x, mask):
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:]).astype(x.dtype)
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:]).astype(x.dtype)
    axes = tuple(range(x.ndim - 1))
    m = jnp.broadcast_to(mask.reshape(-1, *[1] * (x.ndim - 1)), (*x.shape[:-1], 1))
    n = jnp.maximum(m.sum(), 1)
    centred = x - jnp.sum(x * m, axes) / n
    top = losses.largest(centred * m, axes).reshape(-1)  # squares and their inverses stay in range
    centred = centred / top
    variance = jnp.sum(centred * centred * m, axes) / n
    return centred * jax.lax.rsqrt(variance + 1e-5 / top / top) * scale + bias


def norm_without_padding(mask: Any) -> Any:
  """`name -> module`, a `BatchNorm` without the examples of mask 0."""
  return lambda name: partial(BatchNorm(name=name), mask=mask)


class Bottleneck(nn.Module):
  """Maps `[B, H, W, C]` to `width` channels above 0: convolutions of 1×1, 3×3 and 1×1, each with a norm.

  As SimKD has it (Chen et al., 2203.14001). It is called with the norm, `name -> module`.
  """

  width: int
  hidden: int

  @nn.compact
  def __call__(self, x, norm):
    for i, (width, side) in enumerate(((self.hidden, 1), (self.hidden, 3), (self.width, 1))):
      conv = Conv(width, (side, side), padding=side // 2, use_bias=False, dtype=x.dtype, name=f'conv{i}')
      x = nn.relu(norm(f'norm{i}')(conv(x)))
    return x


class MapTo(nn.Module):
  """One convolution from a map `[B, H, W, C]` to `shape`, (h, w, c).

  3×3 with stride 2 where the map is twice as large, a transposed 4×4 with stride 2 where it is half
  as large, and else one with no padding whose kernel takes off the difference.

  Raises:
    KdjaxError: if the map is smaller than `shape` in another way.
  """

  shape: tuple[int, int, int]

  @nn.compact
  def __call__(self, x):
    (h, w), (th, tw, width) = x.shape[1:3], self.shape
    if (h, w) == (2 * th, 2 * tw):
      return Conv(width, (3, 3), 2, ((1, 1), (1, 1)), dtype=x.dtype, name='conv')(x)
    if (2 * h, 2 * w) == (th, tw):
      pad = ((2, 2), (2, 2))
      return nn.ConvTranspose(width, (4, 4), (2, 2), pad, dtype=x.dtype, name='conv')(x)
    if h < th or w < tw:
      raise KdjaxError(
        f'no connector maps a student feature of {h}×{w} to a teacher feature of {th}×{tw}: choose '
        'taps where the student is larger, equal or exactly half as large.'
      )
    return Conv(width, (1 + h - th, 1 + w - tw), 1, 'VALID', dtype=x.dtype, name='conv')(x)
