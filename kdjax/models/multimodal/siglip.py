"""SigLIP's two towers into one space, and the scale and bias of its sigmoids (Zhai et al., 2303.15343)."""

import math

import flax.linen as nn
import jax.numpy as jnp

from kdjax.types import Module


class Siglip(nn.Module):
  """Taps: every tap of both towers as `image/<tap>` and `text/<tap>`, `logit_scale` and `logit_bias` [].

  `image/embed` and `text/embed` [B, D] are not normalised; a pair's logit is
  exp(logit_scale) · cosine + logit_bias, first 10 and -10 as in the paper.

  Attributes:
    image: the image tower.
    text: the text tower, whose embedding has the width of the image tower's.
  """

  image: Module
  text: Module

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    taps = {}
    for name, tower in (('image', self.image), ('text', self.text)):
      taps |= {f'{name}/{tap}': x for tap, x in tower(inputs, train=train).items()}
    first = {'logit_scale': math.log(10), 'logit_bias': -10.0}
    return taps | {k: jnp.asarray(self.param(k, nn.initializers.constant(v), ())) for k, v in first.items()}
