"""Images out of noise: dense, then upsampling and convolutions, as in DAFL and DFAD (1904.01186)."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.conv import Conv
from kdjax.nn.layers import read
from kdjax.options import Size
from kdjax.types import Array


def double(x: Array) -> Array:
  """Nearest upsampling: [B, H, W, C] -> [B, 2H, 2W, C]."""
  return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


class Generator(nn.Module):
  """Taps: `image` [B, H, W, C], floats with mean 0 and deviation 1 a channel over the batch in training.

  noise -> dense to [H/4, W/4, 2·width] -> batch norm -> (×2, 3×3 convolution, batch norm, leaky relu
  of 0.2) to 2·width and to width channels -> 3×3 convolution -> tanh -> batch norm with nothing learned,
  the layers of the generators of DAFL (arXiv 1904.01186) and DFAD (arXiv 1912.11006). ZSKT (arXiv
  1905.09768) leaves out the tanh and starts from 10×10. The last batch norm keeps pixels and images
  apart from each other where the tanh saturates, and values may leave [-1, 1]; without it,
  `normalise=False`, they stay inside. Deviation from the code of DAFL: the ε of a batch norm is 1e-5
  throughout, and there 0.8 in two of them.

  Attributes:
    noise: Z, of the input 'noise' [B, Z].
    width: channels of the last map before the image; the others have twice as many.
    size: H and W, or (H, W), in pixels; they divide by 4.
    channels: of the image.
    normalise: whether the last layer is a batch norm.
  """

  noise: Size = 100
  width: Size = 64
  size: Size | tuple[Size, Size] = 32
  channels: Size = 3
  normalise: bool = True

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    z = read(inputs, 'noise')
    size = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
    if len(size) != 2 or any(n % 4 or n < 4 for n in size):
      raise KdjaxError(f'a generator doubles a map twice, so size={self.size} has to divide by 4.')
    if z.shape[-1] != self.noise:
      raise KdjaxError(f'the generator has noise={self.noise}, and was given {list(z.shape)}.')
    norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    h, w = (n // 4 for n in size)
    x = nn.Dense(h * w * 2 * self.width, name='dense')(z).reshape(-1, h, w, 2 * self.width)
    x = norm(name='norm0')(x)
    for i, width in enumerate((2 * self.width, self.width), 1):
      x = Conv(width, (3, 3), name=f'conv{i}')(double(x))
      x = nn.leaky_relu(norm(name=f'norm{i}')(x), 0.2)
    x = jnp.tanh(Conv(self.channels, (3, 3), name='conv3')(x))
    if self.normalise:
      x = norm(use_bias=False, use_scale=False, name='norm3')(x)
    return {'image': x}
