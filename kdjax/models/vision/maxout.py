"""Maxout convolutional networks (Goodfellow et al., 1302.4389), wide ones and thin deep ones (1412.6550)."""

from functools import reduce
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Len

from kdjax.errors import KdjaxError
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, read, scale_image
from kdjax.options import NonNegative, Rate, Size, Sizes, Whole


def pooled(x, size: int, stride: int):
  """Max over windows [B, H, W, C]; the last window of an axis may hang over its end, as in pylearn2.

  It is a maximum of shifted slices, since the gradient of a windowed one is slow on XLA:CPU.
  """
  for axis in (1, 2) if (size, stride) != (1, 1) else ():
    n = x.shape[axis]
    windows = max(-(-(n - size) // stride), 0) + 1
    edge = [(0, 0)] * 4
    edge[axis] = (0, max((windows - 1) * stride + size - n, 0))
    padded, end = jnp.pad(x, edge, constant_values=-jnp.inf), (windows - 1) * stride + 1
    shifted = (jax.lax.slice_in_dim(padded, i, i + end, stride, axis) for i in range(size))
    x = reduce(jnp.maximum, shifted)
  return x


class MaxoutConv(nn.Module):
  """A convolution with `pieces` maps a channel, of which each position takes the largest value."""

  channels: int
  kernel: int
  pad: int
  pieces: int
  spread: float

  @nn.compact
  def __call__(self, x):
    kwargs = {}
    if self.spread:
      kwargs['kernel_init'] = lambda *args: jax.random.uniform(*args, minval=-self.spread, maxval=self.spread)
    padding = self.pad
    if 2 * self.pad >= self.kernel:
      # XLA:CPU convolves in a naive loop where the kernel, or in its gradient the output, is larger than the
      # map; and it would fuse a plain pad into the convolution.
      edge = (self.pad, self.pad)
      x, padding = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), edge, edge, (0, 0)))), 0
    size = (self.kernel, self.kernel)
    x = Conv(self.channels * self.pieces, size, padding=padding, name='conv', **kwargs)(x)
    return reduce(jnp.maximum, jnp.split(x, self.pieces, -1))


class Maxout(nn.Module):
  """Taps: `hidden1` ... [B, H, W, C] after their pooling, `embed` [B, D], and optionally `logits` [B, C].

  The image is read as [0, 1]. A layer is a convolution, the max over the linear pieces of each channel, and
  a max over windows. The defaults are the network for MNIST of Goodfellow et al. as Romero et al. have it:
  360,816 weights without the biases. As in pylearn2 what dropout keeps is scaled up, but for the pixels.
  Deviation from it: one bias a piece, not one a position too.

  Attributes:
    channels, kernel, pad, pool, stride: of each layer; (1, 1) is no pooling.
    pieces: linear ones, of each channel.
    dropout: probability for the outputs of a layer.
    input_dropout: probability for pixels.
    spread: the kernels start uniform in [-spread, spread]; 0 for Flax's default, as the classifier has.
    num_classes: None for an encoder without `logits`.

  Raises:
    KdjaxError: if not all of these name as many layers.
  """

  channels: Sizes = (48, 48, 24)
  kernel: Sizes = (8, 8, 5)
  pad: Annotated[tuple[Whole, ...], Len(1)] = (0, 3, 3)
  pool: Sizes = (4, 4, 2)
  stride: Sizes = (2, 2, 2)
  pieces: Size = 2
  dropout: Rate = 0.0
  input_dropout: Rate = 0.0
  spread: NonNegative = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    names = ('channels', 'kernel', 'pad', 'pool', 'stride')
    layers = [tuple(getattr(self, name)) for name in names]
    if len({len(layer) for layer in layers}) != 1:
      raise KdjaxError(f'{", ".join(names)} of a maxout network are {layers}: give each a number a layer.')
    x = scale_image(read(inputs, 'image', 'BHWC')) / 2 + 0.5
    keep_rate = 1 - self.input_dropout if train else 1
    x = keep_rate * nn.Dropout(self.input_dropout, deterministic=not train)(x)  # pixels are not scaled up
    taps = {}
    for i, (channels, kernel, pad, pool, stride) in enumerate(zip(*layers, strict=True), 1):
      x = MaxoutConv(channels, kernel, pad, self.pieces, self.spread, name=f'hidden{i}')(x)
      x = taps[f'hidden{i}'] = pooled(x, pool, stride)
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return Classifier(self.num_classes, name='head')(taps | {'embed': x.reshape(x.shape[0], -1)})
