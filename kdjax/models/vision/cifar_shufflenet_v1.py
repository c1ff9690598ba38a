"""ShuffleNet with 3 groups for images of 32×32 (Zhang et al., 1707.01083)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Blocks, Means, Scales, Size, Sizes
from kdjax.types import Array

# torch's own for convolutions: uniform within 1 / √(inputs of an output).
UNIFORM = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def shuffled(x: Array, groups: int) -> Array:
  """The channel shuffle: x [..., C] of `groups` groups, with one channel of each group in turn."""
  return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


class Unit(nn.Module):
  """1×1 in groups, shuffle, depthwise 3×3, 1×1 in groups, before the last ReLU.

  The input is added or, with a stride of 2, averaged over 3×3 and appended.

  Attributes:
    width: channels of the output, with those that are appended.
    stride: of the depthwise convolution.
    groups: of the last convolution.
    first: groups of the first one, and of the shuffle.
  """

  width: int
  stride: int
  groups: int
  first: int

  @nn.compact
  def __call__(self, x, train):
    norm = partial(nn.BatchNorm, not train, momentum=0.9)
    conv = partial(Conv, use_bias=False, kernel_init=UNIFORM)
    width = self.width - x.shape[-1] if self.stride == 2 else self.width
    inner = width // 4
    y = conv(inner, (1, 1), feature_group_count=self.first, name='conv1')(x)
    y = shuffled(nn.relu(norm(name='norm1')(y)), self.first)
    y = conv(inner, (3, 3), self.stride, 1, feature_group_count=inner, name='conv2')(y)
    y = nn.relu(norm(name='norm2')(y))
    y = conv(width, (1, 1), feature_group_count=self.groups, name='conv3')(y)
    y = norm(name='norm3')(y)
    if self.stride == 1:
      return x + y
    # Zeros at the border count, as in torch; the stub of Flax has the padding as a string alone.
    pooled = nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
    return jnp.concatenate([y, pooled], -1)


class CifarShufflenetV1(nn.Module):
  """Taps: `stem`, `stage1` ... `stage3` [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  `stage1_before` ... are the same maps before their ReLU. Layout and initialisation are those of the
  distillation literature (Tian et al., 1910.10699): a 1×1 stem at full size with no pooling after it, a
  ReLU after the depthwise convolution, which the paper leaves out, and convolutions that start as torch's
  do. Deviation: the last layer starts as Flax has it.

  Attributes:
    widths: channels of each stage; each halves the map. A fourth of a width, and of what it has more than
      the width before it, 24 for the first, has to divide into the groups.
    blocks: blocks of each stage.
    groups: of the 1×1 convolutions, but for the very first.
    mean: of the channels of an image in [0, 1], subtracted from it; as of CIFAR-100.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  widths: Sizes = (240, 480, 960)
  blocks: Blocks = (4, 8, 4)
  groups: Size = 3
  mean: Means = (0.5071, 0.4867, 0.4408)
  std: Scales = (0.2675, 0.2565, 0.2761)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = standardised(inputs, self.mean, self.std)
    x = Conv(24, (1, 1), use_bias=False, kernel_init=UNIFORM, name='stem')(x)
    x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name='stem_norm')(x))
    taps = {'stem': x}
    for i, (width, n) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
      for j in range(n):
        first = 1 if (i, j) == (1, 0) else self.groups
        before = Unit(width, 1 if j else 2, self.groups, first, name=f'stage{i}_block{j + 1}')(x, train)
        x = nn.relu(before)
      taps |= {f'stage{i}_before': before, f'stage{i}': x}
    taps['embed'] = jnp.mean(x, (1, 2))
    return Classifier(self.num_classes, name='head')(taps)
