"""Residual convolutional network with batch norm (He et al., 1512.03385); patch stem by choice."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, patches, read, scale_image
from kdjax.options import Blocks, Size, Sizes


class BasicBlock(nn.Module):
  """Two 3×3 convolutions and a shortcut, projected where the shape changes; before the last ReLU."""

  width: int
  stride: int = 1

  @nn.compact
  def __call__(self, x, train):
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    y = Conv(self.width, (3, 3), self.stride, use_bias=False, name='conv1')(x)
    y = nn.relu(norm(name='norm1')(y))
    y = Conv(self.width, (3, 3), use_bias=False, name='conv2')(y)
    y = norm(name='norm2')(y)
    if x.shape != y.shape:
      x = Conv(self.width, (1, 1), self.stride, use_bias=False, name='shortcut')(x)
      x = norm(name='shortcut_norm')(x)
    return x + y


class Resnet(nn.Module):
  """Taps: `stem`, `stage1` ... [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  `stage1_before` ... are the same maps before their ReLU, which AB and OFD read.

  Attributes:
    widths: channels of each stage; each but the first halves the map.
    blocks: blocks of each stage.
    patch: 1 for a 3×3 stem at full size, else the side of the patches that the stem projects.
    pool: 'mean' or 'max' over the last map.
    num_classes: None for an encoder without `logits`.
  """

  widths: Sizes = (16, 32, 64)
  blocks: Blocks = (1, 1, 1)
  patch: Size = 1
  pool: Literal['mean', 'max'] = 'mean'
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = scale_image(read(inputs, 'image', 'BHWC'))
    if self.patch > 1:
      x = nn.Dense(self.widths[0], use_bias=False, name='stem')(patches(x, self.patch))
    else:
      x = Conv(self.widths[0], (3, 3), use_bias=False, name='stem')(x)
    x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name='stem_norm')(x))
    taps = {'stem': x}
    for i, (width, depth) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
      for j in range(depth):
        stride = 2 if i > 1 and j == 0 else 1
        before = BasicBlock(width, stride, name=f'stage{i}_block{j + 1}')(x, train)
        x = nn.relu(before)
        taps[f'stage{i}_before'] = before
      taps[f'stage{i}'] = x
    taps['embed'] = jnp.max(x, (1, 2)) if self.pool == 'max' else jnp.mean(x, (1, 2))
    return Classifier(self.num_classes, name='head')(taps)
