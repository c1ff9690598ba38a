"""MobileNetV2 for images of 32×32, at half its width by default (Sandler et al., 1801.04381)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Blocks, Means, Multiplier, Scales, Size

FAN_OUT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# Of each group of blocks: channels before scaling, the first stride, and the stage that it ends, if any.
GROUPS = (
  (16, 1, ''),
  (24, 1, 'stage1'),
  (32, 2, 'stage2'),
  (64, 2, ''),
  (96, 1, 'stage3'),
  (160, 2, ''),
  (320, 1, 'stage4'),
)


class InvertedResidual(nn.Module):
  """1×1 expansion, depthwise 3×3 convolution, 1×1 projection, and the input added where it fits."""

  width: int
  stride: int
  expansion: int

  @nn.compact
  def __call__(self, x, train):
    norm = partial(nn.BatchNorm, not train, momentum=0.9)
    conv = partial(Conv, use_bias=False, kernel_init=FAN_OUT)
    inner = x.shape[-1] * self.expansion
    y = conv(inner, (1, 1), name='expand')(x)
    y = nn.relu(norm(name='expand_norm')(y))
    y = conv(inner, (3, 3), self.stride, 1, feature_group_count=inner, name='depthwise')(y)
    y = nn.relu(norm(name='depthwise_norm')(y))
    y = conv(self.width, (1, 1), name='project')(y)
    y = norm(name='project_norm')(y)
    return x + y if x.shape == y.shape else y


class CifarMobilenetV2(nn.Module):
  """Taps: `stem`, `stage1` ... `stage4` [B, H, W, C], `embed` [B, 1280], and optionally `logits` [B, C].

  No ReLU follows a block, so `stage1_before` ... are the stages' own maps. Layout and initialisation are
  those of the distillation literature (Tian et al., 1910.10699): the first group has an expansion, of 1;
  activations are ReLU, where the paper has ReLU6; the stem and three groups halve the map, to 2×2;
  convolutions are He normal by their outputs, no dropout. Deviation: the last layer starts as Flax has it,
  where theirs is normal with a deviation of 0.01.

  Attributes:
    width: multiplies all channels but the 1280 of `embed`, which it only raises.
    expansion: inner channels of a block for each of its input, in all groups but the first.
    blocks: blocks of each group.
    mean: of the channels of an image in [0, 1], subtracted from it; as of CIFAR-100.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  width: Multiplier = 0.5
  expansion: Size = 6
  blocks: Blocks = (1, 2, 3, 4, 3, 3, 1)
  mean: Means = (0.5071, 0.4867, 0.4408)
  std: Scales = (0.2675, 0.2565, 0.2761)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    norm = partial(nn.BatchNorm, not train, momentum=0.9)
    conv = partial(Conv, use_bias=False, kernel_init=FAN_OUT)
    x = standardised(inputs, self.mean, self.std)
    x = conv(int(32 * self.width), (3, 3), 2, 1, name='stem')(x)
    x = nn.relu(norm(name='stem_norm')(x))
    taps = {'stem': x}
    for i, (n, (channels, first, stage)) in enumerate(zip(self.blocks, GROUPS, strict=True), 1):
      for j in range(n):
        stride, expansion = (first if j == 0 else 1), (self.expansion if i > 1 else 1)
        block = InvertedResidual(int(channels * self.width), stride, expansion, name=f'group{i}_block{j + 1}')
        x = block(x, train)
      if stage:
        taps |= {stage: x, f'{stage}_before': x}
    x = conv(int(1280 * max(self.width, 1)), (1, 1), name='last')(x)
    x = nn.relu(norm(name='last_norm')(x))
    taps['embed'] = jnp.mean(x, (1, 2))
    return Classifier(self.num_classes, name='head')(taps)
