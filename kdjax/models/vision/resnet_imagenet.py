"""ResNet-18 to ResNet-152 as torchvision and timm have them (He et al., 1512.03385)."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Means, Scales, Size

# Blocks of each stage, and whether they are bottlenecks, 4 times as wide outside as inside.
DEPTHS = {
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
  152: ((3, 8, 36, 3), True),
}


class Residual(nn.Module):
  """Two 3×3 convolutions, or a bottleneck, and a shortcut, projected where the shape changes."""

  width: int
  stride: int
  bottleneck: bool

  @nn.compact
  def __call__(self, x, train):
    norm = partial(nn.BatchNorm, not train, momentum=0.9)
    conv = partial(nn.Conv, use_bias=False)
    same = ((1, 1), (1, 1))
    if self.bottleneck:
      parts = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
    else:
      parts = [(self.width, 3, self.stride), (self.width, 3, 1)]
    y = x
    for i, (width, kernel, stride) in enumerate(parts, 1):
      y = conv(width, (kernel, kernel), stride, same if kernel == 3 else 'VALID', name=f'conv{i}')(y)
      y = norm(name=f'norm{i}')(y)
      y = nn.relu(y) if i < len(parts) else y
    if x.shape != y.shape:
      x = conv(y.shape[-1], (1, 1), self.stride, 'VALID', name='shortcut')(x)
      x = norm(name='shortcut_norm')(x)
    return nn.relu(x + y)


class ResnetImagenet(nn.Module):
  """Taps: `stem`, `stage1` ... `stage4` [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  The tap `stem` is before the max pooling. As in torchvision, a bottleneck
  has its stride in its 3×3 convolution, where the paper has it in the first.

  Attributes:
    depth: 18, 34, 50, 101 or 152.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  depth: Literal[18, 34, 50, 101, 152] = 50
  mean: Means = (0.485, 0.456, 0.406)
  std: Scales = (0.229, 0.224, 0.225)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    if self.depth not in DEPTHS:
      raise unknown('depth of the model resnet_imagenet', str(self.depth), map(str, DEPTHS))
    blocks, bottleneck = DEPTHS[self.depth]
    x = standardised(inputs, self.mean, self.std)
    x = Conv(64, (7, 7), 2, ((3, 3), (3, 3)), use_bias=False, name='stem')(x)
    x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name='stem_norm')(x))
    taps = {'stem': x}
    # The stub of Flax has the padding as a string alone.
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
    for i, n in enumerate(blocks, 1):
      for j in range(n):
        stride = 2 if i > 1 and j == 0 else 1
        x = Residual(32 * 2**i, stride, bottleneck, name=f'stage{i}_block{j + 1}')(x, train)
      taps[f'stage{i}'] = x
    taps['embed'] = jnp.mean(x, (1, 2))
    return Classifier(self.num_classes, name='head')(taps)
