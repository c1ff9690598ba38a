"""CLIP's two towers into one space (Radford et al., 2103.00020)."""

import math

import flax.linen as nn
import jax.numpy as jnp

from kdjax.options import Positive, Size
from kdjax.types import Module


class Clip(nn.Module):
  """Taps: every tap of both towers as `image/<tap>` and `text/<tap>`, and `logit_scale` [].

  `image/embed` and `text/embed` [B, D] are projected into the space of both, and not normalised, and so is
  an `image/masked_embed` where the tower has one; `logit_scale` is the log of the factor of their cosines.

  Attributes:
    image: the image tower.
    text: the text tower.
    width: D.
    scale_limit: the largest factor, above which its gradient is 0; None for no limit.
  """

  image: Module
  text: Module
  width: Size = 512
  scale_limit: Positive | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    taps = {}
    for name, tower in (('image', self.image), ('text', self.text)):
      outputs = tower(inputs, train=train)
      project = nn.Dense(self.width, use_bias=False, name=f'project_{name}')
      outputs |= {tap: project(outputs[tap]) for tap in ('embed', 'masked_embed') if tap in outputs}
      taps |= {f'{name}/{tap}': x for tap, x in outputs.items()}
    scale = self.param('logit_scale', nn.initializers.constant(math.log(1 / 0.07)), ())
    scale = jnp.minimum(scale, math.log(self.scale_limit)) if self.scale_limit else jnp.asarray(scale)
    return taps | {'logit_scale': scale}
