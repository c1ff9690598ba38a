"""Blocks of mobile networks: inverted residuals, squeeze-and-excitation (1801.04381, 1709.01507)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from kdjax.nn.conv import Conv
from kdjax.nn.layers import activation

Padding = int | str | tuple[tuple[int, int], tuple[int, int]]


def channels(n: float, width: float = 1.0) -> int:
  """`n` scaled, to a multiple of 8 that is not below nine tenths of it."""
  scaled = n * width
  rounded = max(8, int(scaled + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * scaled else rounded


def batch_norm(eps: float, train: bool) -> Callable[..., nn.BatchNorm]:
  return partial(nn.BatchNorm, not train, momentum=0.99, epsilon=eps)


def conv_norm(
  x,
  width: int,
  kernel: int,
  norm: Callable[..., nn.Module],
  name: str,
  act: Callable = lambda x: x,
  stride: int = 1,
  padding: Padding = 'SAME',
  depthwise: bool = False,
) -> Any:
  """A convolution of [B, H, W, C], its norm and its activation, within the module that calls it.

  Their parameters are in `name` and `name`_norm.
  """
  groups, sides = width if depthwise else 1, (kernel, kernel)
  conv = Conv(width, sides, stride, padding, feature_group_count=groups, use_bias=False, name=name)
  return act(norm(name=f'{name}_norm')(conv(x)))


class SqueezeExcite(nn.Module):
  """x times a gate of each channel, by two layers of the means of the channels of [B, H, W, C].

  Attributes:
    width: of the first layer.
    act: its activation.
    hard: whether the gate is the hard sigmoid.
  """

  width: int
  act: str
  hard: bool

  @nn.compact
  def __call__(self, x):
    y = activation(self.act)(nn.Dense(self.width, name='reduce')(x.mean((1, 2))))
    y = nn.Dense(x.shape[-1], name='expand')(y)
    y = nn.hard_sigmoid(y) if self.hard else nn.sigmoid(y)
    return x * y[:, None, None]


class InvertedResidual(nn.Module):
  """1×1 expansion, depthwise convolution, 1×1 projection, and the input added where it fits.

  Attributes:
    width: channels of the output.
    inner: channels within; as many as the input has for a block without an expansion.
    kernel: side of the depthwise convolution.
    stride: its stride.
    padding: its padding, as Flax takes it.
    eps: of the batch norms.
    act: activation after the first two convolutions.
    squeeze: width of the squeeze-and-excitation before the projection, 0 for none.
    hard: whether that has ReLU and the hard sigmoid, not `act` and the sigmoid.
  """

  width: int
  inner: int
  kernel: int
  stride: int
  padding: Padding
  eps: float
  act: str
  squeeze: int = 0
  hard: bool = False

  @nn.compact
  def __call__(self, x, train):
    norm, act, y = batch_norm(self.eps, train), activation(self.act), x
    if self.inner != x.shape[-1]:
      y = conv_norm(y, self.inner, 1, norm, 'expand', act)
    y = conv_norm(y, self.inner, self.kernel, norm, 'depthwise', act, self.stride, self.padding, True)
    if self.squeeze:
      y = SqueezeExcite(self.squeeze, 'relu' if self.hard else self.act, self.hard, name='squeeze')(y)
    y = conv_norm(y, self.width, 1, norm, 'project')
    return x + y if self.stride == 1 and x.shape == y.shape else y
