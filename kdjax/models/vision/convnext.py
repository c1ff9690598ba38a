"""ConvNeXt, and its second version (Liu et al., 2201.03545; Woo et al., 2301.00808)."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Activation, Classifier, activation, standardised
from kdjax.options import Blocks, Eps, Means, Rate, Scales, Size, Sizes

EPS = 1e-6  # of all norms but the last


class ResponseNorm(nn.Module):
  """x + scale · x · (norm of its channel over the map / mean of the norms) + bias, of [B, H, W, C]."""

  @nn.compact
  def __call__(self, x):
    norm = jnp.linalg.norm(x, axis=(1, 2), keepdims=True)
    relative = norm / (norm.mean(-1, keepdims=True) + 1e-6)
    zeros, shape = nn.initializers.zeros_init(), x.shape[-1:]
    scale, bias = (self.param(name, zeros, shape).astype(x.dtype) for name in ('scale', 'bias'))
    return x + scale * x * relative + bias


class ConvNextBlock(nn.Module):
  """A depthwise 7×7 convolution, a norm, and an MLP over the channels, 4 times as wide; and the input."""

  act: str
  second: bool
  dropout: float

  @nn.compact
  def __call__(self, x, train):
    width = x.shape[-1]
    pads = ((3, 3), (3, 3))
    y = Conv(width, (7, 7), 1, pads, feature_group_count=width, name='depthwise')(x)
    y = nn.LayerNorm(EPS, name='norm')(y)
    y = activation(self.act)(nn.Dense(4 * width, name='mlp_in')(y))
    y = ResponseNorm(name='response_norm')(y) if self.second else y
    y = nn.Dense(width, name='mlp_out')(y)
    if not self.second:
      y *= self.param('scale', nn.initializers.constant(1e-6), (width,)).astype(y.dtype)
    return x + nn.Dropout(self.dropout, deterministic=not train)(y)


class Convnext(nn.Module):
  """Taps: `stem`, `stage1` ... [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  `stem` is after its norm, and `embed` the mean of the map after the last norm. Deviation from the papers:
  no stochastic depth. The defaults are those of ConvNeXt-T.

  Attributes:
    depths: blocks of each stage.
    widths: channels of each stage.
    patch: the side of the patches of the stem.
    second: for the second version, with response normalisation in place of a layer scale.
    act: activation of the MLPs.
    eps: of the last norm.
    dropout: probability, after each MLP.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  depths: Blocks = (3, 3, 9, 3)
  widths: Sizes = (96, 192, 384, 768)
  patch: Size = 4
  second: bool = False
  act: Activation = 'gelu'
  eps: Eps = 1e-6
  dropout: Rate = 0.0
  mean: Means = (0.485, 0.456, 0.406)
  std: Scales = (0.229, 0.224, 0.225)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    if len(self.depths) != len(self.widths):
      raise KdjaxError(f'convnext.depths has {len(self.depths)} stages, and widths has {len(self.widths)}.')
    x = standardised(inputs, self.mean, self.std)
    least = self.patch * 2 ** (len(self.widths) - 1)
    if min(x.shape[1:3]) < least:
      raise KdjaxError(f'convnext takes images of {least}×{least} or more, and the data have {x.shape[1:3]}.')
    sides = (self.patch, self.patch)
    x = nn.LayerNorm(EPS, name='stem_norm')(Conv(self.widths[0], sides, sides, 'VALID', name='stem')(x))
    taps = {'stem': x}
    for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
      if i > 1:
        x = nn.LayerNorm(EPS, name=f'stage{i}_norm')(x)
        x = Conv(width, (2, 2), (2, 2), 'VALID', name=f'stage{i}_down')(x)
      for j in range(1, depth + 1):
        x = ConvNextBlock(self.act, self.second, self.dropout, name=f'stage{i}_block{j}')(x, train)
      taps[f'stage{i}'] = x
    taps['embed'] = nn.LayerNorm(self.eps, name='norm')(x.mean((1, 2)))
    return Classifier(self.num_classes, name='head')(taps)
