"""EfficientNet-Lite, without squeeze-and-excitation and with ReLU6 (Tan and Le, 1905.11946)."""

import math
from functools import partial
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.errors import KdjaxError
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Means, Rate, Scales, Size

# Kernel, stride, expansion, channels and blocks of a stage, before scaling.
STAGES = (
  (3, 1, 1, 16, 1),
  (3, 2, 6, 24, 2),
  (5, 2, 6, 40, 2),
  (3, 2, 6, 80, 3),
  (5, 1, 6, 112, 3),
  (5, 2, 6, 192, 4),
  (3, 1, 6, 320, 1),
)
# Multipliers of width and depth; they are meant for images of 224, 240, 260, 280 and 300 pixels.
SIZES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))


def channels(n: int, width: float) -> int:
  """`n` scaled, to a multiple of 8 that is not below nine tenths of it."""
  scaled = n * width
  rounded = max(8, int(scaled + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * scaled else rounded


def batch_norm(torch: bool, train: bool):
  return partial(nn.BatchNorm, not train, momentum=0.99, epsilon=1e-5 if torch else 1e-3)


class InvertedResidual(nn.Module):
  """1×1 expansion, depthwise convolution, 1×1 projection, and the input added where it fits."""

  kernel: int
  stride: int
  expansion: int
  width: int
  torch: bool

  @nn.compact
  def __call__(self, x, train):
    norm = batch_norm(self.torch, train)
    inner = x.shape[-1] * self.expansion
    y = x
    if self.expansion > 1:
      y = Conv(inner, (1, 1), use_bias=False, name='expand')(y)
      y = nn.relu6(norm(name='expand_norm')(y))
    y = Conv(
      inner,
      (self.kernel, self.kernel),
      self.stride,
      self.kernel // 2 if self.torch else 'SAME',
      feature_group_count=inner,
      use_bias=False,
      name='depthwise',
    )(y)
    y = nn.relu6(norm(name='depthwise_norm')(y))
    y = Conv(self.width, (1, 1), use_bias=False, name='project')(y)
    y = norm(name='project_norm')(y)
    return x + y if x.shape == y.shape else y


class EfficientnetLite(nn.Module):
  """Taps: `stem`, `stage1` ... `stage7` [B, H, W, C], `embed` [B, 1280], optionally `logits` [B, C].

  By default images are scaled to [-1, 1], where Google's own code takes (x - 127) / 128. Deviation: no
  stochastic depth.

  Attributes:
    size: 0 to 4, the published Lite0 to Lite4.
    torch: for weights trained in torch (timm's efficientnet_lite0) and not in TensorFlow (its tf_ ones
      and most others): strided convolutions pad both sides alike, and batch norms add 1e-5, not 1e-3.
    dropout: probability, before the last layer.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  size: Annotated[int, Interval(ge=0, le=4)] = 0
  torch: bool = False
  dropout: Rate = 0.2
  mean: Means = (0.5, 0.5, 0.5)
  std: Scales = (0.5, 0.5, 0.5)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    if self.size not in range(len(SIZES)):
      raise KdjaxError(f'efficientnet_lite.size is {self.size!r}; choose from 0 to {len(SIZES) - 1}.')
    width, depth = SIZES[self.size]
    norm = batch_norm(self.torch, train)
    x = standardised(inputs, self.mean, self.std)
    x = Conv(32, (3, 3), 2, 1 if self.torch else 'SAME', use_bias=False, name='stem')(x)
    x = nn.relu6(norm(name='stem_norm')(x))
    taps, index = {'stem': x}, 0
    for i, (kernel, stride, expansion, n, repeats) in enumerate(STAGES, 1):
      # The first and the last stage keep their one block, whatever the depth.
      for j in range(repeats if i in (1, len(STAGES)) else math.ceil(repeats * depth)):
        index += 1
        block = InvertedResidual(
          kernel, stride if j == 0 else 1, expansion, channels(n, width), self.torch, name=f'block{index}'
        )
        x = block(x, train)
      taps[f'stage{i}'] = x
    x = Conv(1280, (1, 1), use_bias=False, name='last')(x)
    x = nn.relu6(norm(name='last_norm')(x))
    taps['embed'] = jnp.mean(x, (1, 2))
    if not self.num_classes:
      return taps
    x = nn.Dropout(self.dropout, deterministic=not train)(taps['embed'])
    return taps | {'logits': Classifier(self.num_classes, name='head')({'embed': x})['logits']}
