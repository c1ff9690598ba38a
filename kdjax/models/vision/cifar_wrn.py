"""Wide residual networks for images of 32×32, as WRN-40-2 (Zagoruyko and Komodakis, 1605.07146)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Depth, Means, Scales, Size

FAN_OUT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class PreActivation(nn.Module):
  """Twice norm, ReLU and 3×3 convolution, and a shortcut; its map, and the output of its first norm.

  Where the width changes, the shortcut is a 1×1 convolution of the output of the first ReLU.
  """

  width: int
  stride: int

  @nn.compact
  def __call__(self, x, train):
    norm = partial(nn.BatchNorm, not train, momentum=0.9)
    conv = partial(Conv, self.width, use_bias=False, kernel_init=FAN_OUT)
    normed = norm(name='norm1')(x)
    active = nn.relu(normed)
    y = conv((3, 3), self.stride, 1, name='conv1')(active)
    y = nn.relu(norm(name='norm2')(y))
    y = conv((3, 3), padding=1, name='conv2')(y)
    if x.shape[-1] != self.width:
      x = conv((1, 1), self.stride, 0, name='shortcut')(active)
    return x + y, normed


class CifarWrn(nn.Module):
  """Taps: `stem`, `stage1` ... `stage3` [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  The stem and the stages are plain sums: their norm and ReLU come first in the block that follows.
  `stage1_before` ... are those maps after that norm and before that ReLU. Convolutions start as He normal
  by their outputs, as in the distillation literature (Tian et al., 1910.10699). Deviations: no dropout,
  which that literature leaves at 0, and the last layer's weights start as Flax has them.

  Attributes:
    depth: 6n + 4 for stages of n blocks: 16 or 40.
    widen: the stages have 16, 32 and 64 channels times this; the stem has 16.
    mean: of the channels of an image in [0, 1], subtracted from it; as of CIFAR-100.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  depth: Depth = 40
  widen: Size = 2
  mean: Means = (0.5071, 0.4867, 0.4408)
  std: Scales = (0.2675, 0.2565, 0.2761)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    n, remainder = divmod(self.depth - 4, 6)
    if n < 1 or remainder:
      raise KdjaxError(f'the depth of the model cifar_wrn is {self.depth}; choose 6n + 4, as 16, 28 or 40.')
    x = standardised(inputs, self.mean, self.std)
    x = Conv(16, (3, 3), padding=1, use_bias=False, kernel_init=FAN_OUT, name='stem')(x)
    taps = {'stem': x}
    for i in (1, 2, 3):
      for j in range(n):
        stride = 2 if i > 1 and j == 0 else 1
        width = 8 * 2**i * self.widen
        x, normed = PreActivation(width, stride, name=f'stage{i}_block{j + 1}')(x, train)
        if i > 1 and j == 0:
          taps[f'stage{i - 1}_before'] = normed
      taps[f'stage{i}'] = x
    taps['stage3_before'] = nn.BatchNorm(not train, momentum=0.9, name='norm')(x)
    taps['embed'] = jnp.mean(nn.relu(taps['stage3_before']), (1, 2))
    return Classifier(self.num_classes, name='head')(taps)
