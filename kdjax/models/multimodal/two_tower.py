"""Any two encoders projected into one space, as in CLIP (Radford et al., 2103.00020) and LiT (2111.07991)."""

import math

import flax.linen as nn
import jax.numpy as jnp

from kdjax.options import NoOrSize, Rate, Size
from kdjax.types import Module


class Projection(nn.Module):
  """`[B, E] -> [B, width]`: one linear layer, or a norm and an MLP of one hidden layer beside it."""

  width: int
  hidden: int
  dropout: float

  @nn.compact
  def __call__(self, x, train):
    drop = nn.Dropout(self.dropout, deterministic=not train)
    y = nn.Dense(self.width, use_bias=False, name='linear')(drop(x))
    if not self.hidden:
      return y
    x = nn.Dense(self.hidden, name='mlp_in')(nn.LayerNorm(name='norm')(x))
    return y + nn.Dense(self.width, name='mlp_out')(drop(nn.gelu(x)))


class TwoTower(nn.Module):
  """Taps: every tap of both towers as `image/<tap>` and `text/<tap>`, `logit_scale` [], and optionally
  `logit_bias` [].

  `image/embed` and `text/embed` [B, D] are projected into the space of both, and not normalised;
  `logit_scale` is the log of the factor of their cosines, at most 100.

  Attributes:
    image: a module that gives `embed`.
    text: a module that gives `embed`.
    width: D.
    hidden: width of the hidden layer of the projections; 0 for linear ones.
    dropout: probability, of what the projections read and of their hidden layer.
    bias: whether there is a `logit_bias`, for a sigmoid loss; SigLIP (2303.15343) begins at -10, with a
      factor of 10, and so does this.
  """

  image: Module
  text: Module
  width: Size = 128
  hidden: NoOrSize = 0
  dropout: Rate = 0.0
  bias: bool = False

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    taps = {}
    for name, tower in (('image', self.image), ('text', self.text)):
      out = tower(inputs, train=train)
      project = Projection(self.width, self.hidden, self.dropout, name=f'project_{name}')
      taps |= {f'{name}/{k}': v for k, v in out.items()} | {f'{name}/embed': project(out['embed'], train)}
    start = math.log(10 if self.bias else 1 / 0.07)
    scale = self.param('logit_scale', nn.initializers.constant(start), ())
    taps['logit_scale'] = jnp.minimum(scale, math.log(100))
    if self.bias:
      taps['logit_bias'] = jnp.asarray(self.param('logit_bias', nn.initializers.constant(-10.0), ()))
    return taps
