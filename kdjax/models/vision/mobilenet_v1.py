"""MobileNet, depthwise convolutions and 1×1 ones in turn (Howard et al., 1704.04861)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Means, Multiplier, Scales, Size

# Of each block: channels before scaling, stride, and the stage that it ends, if any.
BLOCKS = (
  (64, 1, ''),
  (128, 2, ''),
  (128, 1, 'stage1'),
  (256, 2, ''),
  (256, 1, 'stage2'),
  (512, 2, ''),
  *[(512, 1, '')] * 4,
  (512, 1, 'stage3'),
  (1024, 2, ''),
  (1024, 1, 'stage4'),
)


class Separable(nn.Module):
  """Depthwise 3×3 convolution, norm, ReLU, 1×1 convolution, norm; before the last ReLU."""

  width: int
  stride: int

  @nn.compact
  def __call__(self, x, train):
    norm = partial(nn.BatchNorm, not train, momentum=0.9)
    n = x.shape[-1]
    y = Conv(n, (3, 3), self.stride, 1, feature_group_count=n, use_bias=False, name='depthwise')(x)
    y = nn.relu(norm(name='depthwise_norm')(y))
    y = Conv(self.width, (1, 1), use_bias=False, name='pointwise')(y)
    return norm(name='pointwise_norm')(y)


class MobilenetV1(nn.Module):
  """Taps: `stem`, `stage1` ... `stage4` [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  `stage1_before` ... are the same maps before their ReLU. Of images of 224×224 the stages have 56, 28, 14 and
  7 positions a side. Borders are padded alike on both sides, as in torch.

  Attributes:
    width: multiplies all channels.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  width: Multiplier = 1.0
  mean: Means = (0.485, 0.456, 0.406)
  std: Scales = (0.229, 0.224, 0.225)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = standardised(inputs, self.mean, self.std)
    x = Conv(int(32 * self.width), (3, 3), 2, 1, use_bias=False, name='stem')(x)
    x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name='stem_norm')(x))
    taps = {'stem': x}
    for i, (channels, stride, stage) in enumerate(BLOCKS, 1):
      before = Separable(int(channels * self.width), stride, name=f'block{i}')(x, train)
      x = nn.relu(before)
      if stage:
        taps |= {f'{stage}_before': before, stage: x}
    taps['embed'] = jnp.mean(x, (1, 2))
    return Classifier(self.num_classes, name='head')(taps)
