"""ResNets for images of 32×32, such as ResNet-20, 56 and 8×4 (He et al., 1512.03385, section 4.2)."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Depth, Means, Scales, Size
from kdjax.types import Array

FAN_OUT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Residual(nn.Module):
  """Two 3×3 convolutions, or a bottleneck, and a shortcut, projected where the shape changes; before the
  last ReLU."""

  width: int
  stride: int
  bottleneck: bool

  @nn.compact
  def __call__(self, x, train):
    norm = partial(nn.BatchNorm, not train, momentum=0.9)
    conv = partial(Conv, use_bias=False, kernel_init=FAN_OUT)
    parts = [(self.width, 3, self.stride), (self.width, 3, 1)]
    if self.bottleneck:
      parts = [(self.width, 1, 1), parts[0], (4 * self.width, 1, 1)]
    y = x
    for i, (width, side, stride) in enumerate(parts, 1):
      y = conv(width, (side, side), stride, side // 2, name=f'conv{i}')(y)
      y = norm(name=f'norm{i}')(y)
      y = nn.relu(y) if i < len(parts) else y
    if x.shape != y.shape:
      x = conv(y.shape[-1], (1, 1), self.stride, 0, name='shortcut')(x)
      x = norm(name='shortcut_norm')(x)
    return x + y


def residual_taps(
  x: Array, stem: int, widths: Sequence[int], blocks: Sequence[int], bottleneck: bool, train: bool
) -> dict[str, Array]:
  """The taps of a ResNet over x [B, H, W, 3], within the module that owns its layers.

  Args:
    x: the images, standardised.
    stem: channels of the first convolution, which keeps the size.
    widths: channels of each stage, a fourth of them with bottlenecks; each but the first halves the map.
    blocks: blocks of each stage.
    bottleneck: whether they are bottlenecks.
    train: whether the norms take the statistics of the batch.
  """
  x = Conv(stem, (3, 3), padding=1, use_bias=False, kernel_init=FAN_OUT, name='stem')(x)
  x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name='stem_norm')(x))
  taps = {'stem': x}
  for i, (width, n) in enumerate(zip(widths, blocks, strict=True), 1):
    for j in range(n):
      stride = 2 if i > 1 and j == 0 else 1
      before = Residual(width, stride, bottleneck, name=f'stage{i}_block{j + 1}')(x, train)
      x = nn.relu(before)
    taps |= {f'stage{i}_before': before, f'stage{i}': x}
  return taps | {'embed': jnp.mean(x, (1, 2))}


class CifarResnet(nn.Module):
  """Taps: `stem`, `stage1` ... `stage3` [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  `stage1_before` ... are the same maps before their ReLU. Layout and initialisation are those of the
  distillation literature (Tian et al., 1910.10699): shortcuts are projected, where the paper pads them,
  and convolutions start as He normal by their outputs. Deviation: the last layer starts as Flax has it,
  where torch draws its weights and biases uniformly.

  Attributes:
    depth: 6n + 2 for stages of n blocks: 8, 14, 20, 32, 44, 56 or 110; what is called ResNet-50 is another
      model, cifar_resnet_bottleneck.
    widen: the stages have 16, 32 and 64 channels times this, and the stem 16, or 32 where it is over 1.
    mean: of the channels of an image in [0, 1], subtracted from it; as of CIFAR-100.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  depth: Depth = 20
  widen: Size = 1
  mean: Means = (0.5071, 0.4867, 0.4408)
  std: Scales = (0.2675, 0.2565, 0.2761)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    n, remainder = divmod(self.depth - 2, 6)
    if n < 1 or remainder:
      raise KdjaxError(
        f'the depth of the model cifar_resnet is {self.depth}; choose 6n + 2, as 8, 20, 56 or 110.'
      )
    x = standardised(inputs, self.mean, self.std)
    widths = [width * self.widen for width in (16, 32, 64)]
    taps = residual_taps(x, 16 * min(self.widen, 2), widths, [n] * 3, False, train)
    return Classifier(self.num_classes, name='head')(taps)
