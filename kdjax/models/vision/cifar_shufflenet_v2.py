"""ShuffleNetV2 at size 1 for images of 32×32 (Ma et al., 1807.11164)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from kdjax.models.vision.cifar_shufflenet_v1 import UNIFORM, shuffled
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Blocks, Means, Scales, Size, Sizes


class Unit(nn.Module):
  """Two halves, joined before the last ReLU of the right one and before the shuffle.

  The right one is 1×1, depthwise 3×3 and 1×1. The left one is half of the input or, with a stride of 2,
  depthwise 3×3 and 1×1 with its ReLU, and both then read all of the input.
  """

  width: int
  stride: int

  @nn.compact
  def __call__(self, x, train):
    norm = partial(nn.BatchNorm, not train, momentum=0.9)
    conv = partial(Conv, use_bias=False, kernel_init=UNIFORM)

    def dense(x, i):
      return norm(name=f'norm{i}')(conv(self.width // 2, (1, 1), name=f'conv{i}')(x))

    def depthwise(x, i):
      n = x.shape[-1]
      y = conv(n, (3, 3), self.stride, 1, feature_group_count=n, name=f'conv{i}')(x)
      return norm(name=f'norm{i}')(y)

    if self.stride == 2:
      i, left, right = 3, nn.relu(dense(depthwise(x, 1), 2)), x
    else:
      i, (left, right) = 1, jnp.split(x, 2, -1)
    right = depthwise(nn.relu(dense(right, i)), i + 1)
    return jnp.concatenate([left, dense(right, i + 2)], -1)


class CifarShufflenetV2(nn.Module):
  """Taps: `stem`, `stage1` ... `stage3` [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  `stage1_before` ... are the same maps before their ReLU and, as in the code of the authors below, before
  their shuffle; the left half of their channels has no ReLU to come. Layout and initialisation are those
  of the distillation literature (Tian et al., 1910.10699): a 1×1 stem at full size with no pooling after
  it, and convolutions that start as torch's do. Deviation: the last layer starts as Flax has it.

  Attributes:
    widths: channels of each stage, even; each halves the map.
    last: channels of the 1×1 convolution after them, of which `embed` is the mean.
    blocks: blocks of each stage.
    mean: of the channels of an image in [0, 1], subtracted from it; as of CIFAR-100.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  widths: Sizes = (116, 232, 464)
  last: Size = 1024
  blocks: Blocks = (4, 8, 4)
  mean: Means = (0.5071, 0.4867, 0.4408)
  std: Scales = (0.2675, 0.2565, 0.2761)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    norm = partial(nn.BatchNorm, not train, momentum=0.9)
    conv = partial(Conv, use_bias=False, kernel_init=UNIFORM)
    x = standardised(inputs, self.mean, self.std)
    x = nn.relu(norm(name='stem_norm')(conv(24, (1, 1), name='stem')(x)))
    taps = {'stem': x}
    for i, (width, n) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
      for j in range(n):
        before = Unit(width, 1 if j else 2, name=f'stage{i}_block{j + 1}')(x, train)
        x = shuffled(nn.relu(before), 2)  # the left half is no less than 0 as it is
      taps |= {f'stage{i}_before': before, f'stage{i}': x}
    x = nn.relu(norm(name='last_norm')(conv(self.last, (1, 1), name='last')(x)))
    taps['embed'] = jnp.mean(x, (1, 2))
    return Classifier(self.num_classes, name='head')(taps)
