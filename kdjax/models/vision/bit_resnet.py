"""BiT's ResNet-v2, with standardised weights and group norm (Kolesnikov et al., 1912.11370)."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn.conv import conv_general_dilated
from kdjax.nn.layers import standardised
from kdjax.options import Eps, Means, Multiplier, Scales, Size

DEPTHS = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # blocks of each stage


def with_standardised_weights(x, w, *args, eps=1e-10, **options):
  """A convolution with the kernel [h, w, I, O], whose outputs each get weights of mean 0 and deviation 1.

  Weights may come in bfloat16; their moments are taken in float32 (1903.10520), `eps` beside the variance.
  """
  kernel = w.astype(jnp.float32)
  kernel -= kernel.mean((0, 1, 2), keepdims=True)
  kernel /= jnp.sqrt((kernel**2).mean((0, 1, 2), keepdims=True) + eps)
  return conv_general_dilated(x, kernel.astype(w.dtype), *args, **options)


def standardising(eps: float):
  """The convolution whose weights are standardised with this `eps`."""
  conv = partial(with_standardised_weights, eps=eps)
  return partial(nn.Conv, use_bias=False, conv_general_dilated=conv)


Norm = partial(nn.GroupNorm, 32, epsilon=1e-5, use_fast_variance=False)  # E[x²] - E[x]² loses digits


class Bottleneck(nn.Module):
  """Norm, ReLU and convolution, three times; a shortcut that is projected starts after the first ReLU."""

  width: int
  stride: int
  eps: float = 1e-10

  @nn.compact
  def __call__(self, x):
    conv = standardising(self.eps)
    first = nn.relu(Norm(name='norm1')(x))
    if x.shape[-1] != 4 * self.width or self.stride > 1:
      x = conv(4 * self.width, (1, 1), self.stride, 'VALID', name='shortcut')(first)
    y = conv(self.width, (1, 1), name='conv1')(first)
    y = nn.relu(Norm(name='norm2')(y))
    y = conv(self.width, (3, 3), self.stride, ((1, 1), (1, 1)), name='conv2')(y)
    y = nn.relu(Norm(name='norm3')(y))
    return x + conv(4 * self.width, (1, 1), name='conv3')(y)


class BitResnet(nn.Module):
  """Taps: `stem`, `stage1` ... `stage4` [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  A stage's map is the sum of its last block, before the next norm; `embed` is the mean of what norm and ReLU
  make of `stage4`. The tap `stem` is before the max pooling, which pads with zeros, as the authors'
  TensorFlow and timm have it, where big_vision leaves the border out.
  The last layer starts at 0. A depth of 26 is timm's and big_vision's.

  Attributes:
    depth: 26, 50, 101 or 152.
    width: what all channels are multiplied with, the 'x2' of R152x2.
    eps: beside the variance of a kernel; timm has 1e-8.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  depth: Literal[26, 50, 101, 152] = 50
  width: Multiplier = 1
  eps: Eps = 1e-10
  mean: Means = (0.5, 0.5, 0.5)
  std: Scales = (0.5, 0.5, 0.5)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    if self.depth not in DEPTHS:
      raise unknown('depth of the model bit_resnet', str(self.depth), map(str, DEPTHS))
    width = int(64 * self.width)
    x = standardised(inputs, self.mean, self.std)
    x = standardising(self.eps)(width, (7, 7), 2, ((3, 3), (3, 3)), name='stem')(x)
    taps = {'stem': x}
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = nn.max_pool(x, (3, 3), (2, 2))
    for i, n in enumerate(DEPTHS[self.depth], 1):
      for j in range(n):
        stride = 2 if i > 1 and j == 0 else 1
        x = Bottleneck(width * 2 ** (i - 1), stride, self.eps, name=f'stage{i}_block{j + 1}')(x)
      taps[f'stage{i}'] = x
    taps['embed'] = nn.relu(Norm(name='norm')(x)).mean((1, 2))
    if not self.num_classes:
      return taps
    head = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name='head')
    return taps | {'logits': head(taps['embed'])}
