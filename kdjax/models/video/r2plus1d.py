"""(2+1)D residual network: each 3-D convolution as one over space, then one over time (1711.11248)."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, masked_mean, patches, read, scale_image
from kdjax.options import Blocks, Size, Sizes


class SpaceTime(nn.Module):
  """A 3×3 convolution over space, batch norm, ReLU and one of 3 frames over time, of [B, T, H, W, C].

  The channels between are as many as those after, not as many as give a 3-D convolution's weights.
  """

  width: int
  stride: int = 1

  @nn.compact
  def __call__(self, x, valid, train):
    b, t = x.shape[:2]
    y = Conv(self.width, (3, 3), self.stride, use_bias=False, name='space')(x.reshape(b * t, *x.shape[2:]))
    y = nn.relu(nn.BatchNorm(not train, momentum=0.9, name='norm')(y))
    _, h, w, c = y.shape
    y = valid(y.reshape(b, t, h, w, c)).reshape(b, t, h * w, c)
    y = Conv(self.width, (3, 1), use_bias=False, name='time')(y)
    return y.reshape(b, t, h, w, c)


class R2plus1d(nn.Module):
  """Taps: `stem`, `stage1` ... [B, T, H, W, C], `tokens` [B, T, C], `embed` [B, C], optionally `logits`.

  Tran et al. (1711.11248), at the size of a CPU: a stem of patches within a frame, and no stride over time.
  Reads `video` [B, T, H, W, C], u8 or floats in [-1, 1], with `video/mask` [B, T] where there is one; frames
  that are not valid are 0 in every map, and out of the mean.

  Attributes:
    widths: channels of each stage; each but the first halves height and width.
    blocks: residual blocks of each stage.
    patch: side of the patches that the stem projects.
    difference: whether the stem also reads each frame less the one before, as TSN does (1608.00859).
    num_classes: None for an encoder without `logits`.
  """

  widths: Sizes = (24, 48, 96)
  blocks: Blocks = (1, 1, 1)
  patch: Size = 4
  difference: bool = False
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = scale_image(read(inputs, 'video', 'BTHWC'))
    mask = inputs.get('video/mask')

    def valid(x):
      return x if mask is None else jnp.where(mask[:, :, None, None, None] > 0, x, 0)

    def norm(x, name):
      return valid(nn.BatchNorm(not train, momentum=0.9, name=name)(x))

    if self.difference:
      x = jnp.concatenate([x, x - jnp.concatenate([x[:, :1], x[:, :-1]], 1)], -1)
    b, t, *frame = x.shape
    x = patches(x.reshape(b * t, *frame), self.patch)
    x = nn.Dense(self.widths[0], use_bias=False, name='stem')(x.reshape(b, t, *x.shape[1:]))
    taps = {'stem': nn.relu(norm(x, 'stem_norm'))}
    x = taps['stem']
    for i, (width, depth) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
      for j in range(1, depth + 1):
        stride, name = 2 if i > 1 and j == 1 else 1, f'stage{i}_block{j}'
        y = SpaceTime(width, stride, name=f'{name}_conv1')(x, valid, train)
        y = nn.relu(norm(y, f'{name}_norm1'))
        y = norm(SpaceTime(width, name=f'{name}_conv2')(y, valid, train), f'{name}_norm2')
        if x.shape != y.shape:
          x = nn.Dense(width, use_bias=False, name=f'{name}_shortcut')(x[:, :, ::stride, ::stride])
          x = norm(x, f'{name}_shortcut_norm')
        x = nn.relu(x + y)
      taps[f'stage{i}'] = x
    taps['tokens'] = tokens = x.mean((2, 3))
    taps['embed'] = masked_mean(tokens, mask)
    return Classifier(self.num_classes, name='head')(taps)
