"""MobileNetV4 without attention, small, medium and large (Qin et al., 2404.10518)."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn.inverted_residual import batch_norm, channels, conv_norm
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Eps, Means, Multiplier, Rate, Scales, Size

# A block of a stage: kernels of the depthwise convolutions before and after the expansion, 0 for none, the
# expansion, how many there are, and channels before scaling. Only the first of a stage has a stride, of 2.
Universal = tuple[int, int, int, int, int]
STEMS = {'small': 32, 'medium': 32, 'large': 24}
# Stages of plain convolutions: kernel, stride, channels; and of the others, which begin with a 3×3 expansion.
FIRST = {'small': (((3, 2, 32), (1, 1, 32)), ((3, 2, 96), (1, 1, 64)))}
STAGES: dict[str, tuple[tuple[Universal, ...], ...]] = {
  'small': (
    ((5, 5, 3, 1, 96), (0, 3, 2, 4, 96), (3, 0, 4, 1, 96)),
    ((3, 3, 6, 1, 128), (5, 5, 4, 1, 128), (0, 5, 4, 1, 128), (0, 5, 3, 1, 128), (0, 3, 4, 2, 128)),
  ),
  'medium': (
    ((3, 5, 4, 1, 80), (3, 3, 2, 1, 80)),
    (
      (3, 5, 6, 1, 160),
      (3, 3, 4, 2, 160),
      (3, 5, 4, 1, 160),
      (3, 3, 4, 1, 160),
      (3, 0, 4, 1, 160),
      (0, 0, 2, 1, 160),
      (3, 0, 4, 1, 160),
    ),
    (
      (5, 5, 6, 1, 256),
      (5, 5, 4, 1, 256),
      (3, 5, 4, 2, 256),
      (0, 0, 4, 1, 256),
      (3, 0, 4, 1, 256),
      (3, 5, 2, 1, 256),
      (5, 5, 4, 1, 256),
      (0, 0, 4, 2, 256),
      (5, 0, 2, 1, 256),
    ),
  ),
  'large': (
    ((3, 5, 4, 1, 96), (3, 3, 4, 1, 96)),
    ((3, 5, 4, 1, 192), (3, 3, 4, 3, 192), (3, 5, 4, 1, 192), (5, 3, 4, 5, 192), (3, 0, 4, 1, 192)),
    (
      (5, 5, 4, 4, 512),
      (5, 0, 4, 1, 512),
      (5, 3, 4, 1, 512),
      (5, 0, 4, 2, 512),
      (5, 3, 4, 1, 512),
      (5, 5, 4, 1, 512),
      (5, 0, 4, 3, 512),
    ),
  ),
}


def strided_conv(x, width, kernel, norm, name, act, stride, depthwise, pooled):
  """As `conv_norm`, padded alike on both sides; if `pooled`, with a mean over windows for the stride."""
  y = conv_norm(x, width, kernel, norm, name, act, 1 if pooled else stride, kernel // 2, depthwise)
  return nn.avg_pool(y, (stride, stride), (stride, stride)) if pooled and stride > 1 else y


class FusedResidual(nn.Module):
  """3×3 expansion with a stride of 2, and 1×1 projection."""

  width: int
  expansion: int
  pooled: bool
  eps: float

  @nn.compact
  def __call__(self, x, train):
    norm, inner = batch_norm(self.eps, train), channels(x.shape[-1] * self.expansion)
    y = strided_conv(x, inner, 3, norm, 'expand', nn.relu, 2, False, self.pooled)
    return conv_norm(y, self.width, 1, norm, 'project')


class UniversalResidual(nn.Module):
  """The universal inverted bottleneck: depthwise convolutions before and after a 1×1 expansion, if any.

  A depthwise convolution, 1×1 expansion, another depthwise one, 1×1 projection, and the input where it fits.

  Attributes:
    width: channels of the output.
    start: kernel of the first depthwise convolution, 0 for none.
    kernel: of the second, 0 for none; the last of them has the stride.
    expansion: inner channels for each of the input.
    stride: of the block.
    pooled: whether the stride is a mean after the convolution.
    eps: of the batch norms.
  """

  width: int
  start: int
  kernel: int
  expansion: int
  stride: int
  pooled: bool
  eps: float

  @nn.compact
  def __call__(self, x, train):
    norm, n, y = batch_norm(self.eps, train), x.shape[-1], x
    inner = channels(n * self.expansion)
    if self.start:
      stride = 1 if self.kernel else self.stride
      y = strided_conv(y, n, self.start, norm, 'start', lambda x: x, stride, True, self.pooled)
    y = conv_norm(y, inner, 1, norm, 'expand', nn.relu)
    if self.kernel:
      y = strided_conv(y, inner, self.kernel, norm, 'depthwise', nn.relu, self.stride, True, self.pooled)
    y = conv_norm(y, self.width, 1, norm, 'project')
    return x + y if self.stride == 1 and x.shape == y.shape else y


class PlainConv(nn.Module):
  """A convolution, its norm and ReLU."""

  width: int
  kernel: int
  stride: int
  pooled: bool
  eps: float

  @nn.compact
  def __call__(self, x, train):
    norm = batch_norm(self.eps, train)
    return strided_conv(x, self.width, self.kernel, norm, 'conv', nn.relu, self.stride, False, self.pooled)


class MobilenetV4(nn.Module):
  """Taps: `stem`, `stage1` ..., `last` [B, H, W, C], `embed` [B, 1280], and optionally `logits` [B, C].

  Of images of 256×256 the four stages have 64, 32, 16 and 8 positions a side. `last` is the map that is
  averaged, and `embed` comes out of a layer over that mean. Deviation: no stochastic depth.

  Attributes:
    size: 'small', 'medium' or 'large', those published without attention.
    width: multiplies all channels but those of `embed`; below 1 also but those of `stem`.
    pooled: whether strided convolutions but the stem have a stride of 1 and then a mean over 2×2, as in
      timm's mobilenetv4_conv_aa_medium and large.
    eps: of the batch norms.
    dropout: probability, before the last layer.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  size: Literal['small', 'medium', 'large'] = 'small'
  width: Multiplier = 1.0
  pooled: bool = False
  eps: Eps = 1e-5
  dropout: Rate = 0.2
  mean: Means = (0.485, 0.456, 0.406)
  std: Scales = (0.229, 0.224, 0.225)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    if self.size not in STAGES:
      raise unknown('size of the model mobilenet_v4', str(self.size), STAGES)
    norm = batch_norm(self.eps, train)
    x = standardised(inputs, self.mean, self.std)
    stem = channels(STEMS[self.size], max(self.width, 1))
    x = conv_norm(x, stem, 3, norm, 'stem', nn.relu, 2, 1)
    taps = {'stem': x}
    for i, blocks in enumerate(self._stages(), 1):
      for block in blocks:
        x = block(x, train)
      taps[f'stage{i}'] = x
    taps['last'] = x = conv_norm(x, channels(960, self.width), 1, norm, 'last', nn.relu)
    x = nn.Dense(1280, use_bias=False, name='hidden')(jnp.mean(x, (1, 2)))
    taps['embed'] = x = nn.relu(norm(name='hidden_norm')(x))
    if not self.num_classes:
      return taps
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return taps | {'logits': Classifier(self.num_classes, name='head')({'embed': x})['logits']}

  def _stages(self):
    """The blocks of each stage."""
    index = 0

    def block(module, n, *sizes):
      nonlocal index
      index += 1
      return module(channels(n, self.width), *sizes, self.pooled, self.eps, name=f'block{index}')

    if self.size in FIRST:
      for convs in FIRST[self.size]:
        yield [block(PlainConv, n, kernel, stride) for kernel, stride, n in convs]
    else:
      yield [block(FusedResidual, 48, 4)]
    for kinds in STAGES[self.size]:
      rows = [kind for *kind, repeats, n in kinds for kind in [(n, *kind)] * repeats]
      yield [
        block(UniversalResidual, n, start, kernel, expansion, 1 if j else 2)
        for j, (n, start, kernel, expansion) in enumerate(rows)
      ]
