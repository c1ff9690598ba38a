"""CLAP's two towers, of sound and of text, into one space (Wu et al., 2211.06687)."""

import math

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn.layers import Activation, activation
from kdjax.options import Size
from kdjax.types import Module


class Projection(nn.Module):
  """`[B, E] -> [B, width]`, an MLP of one hidden layer."""

  width: int
  act: str

  @nn.compact
  def __call__(self, x):
    x = activation(self.act)(nn.Dense(self.width, name='mlp_in')(x))
    return nn.Dense(self.width, name='mlp_out')(x)


class Clap(nn.Module):
  """Taps: every tap of both towers as `audio/<tap>` and `text/<tap>`, `logit_scale`, `logit_scale_text` [].

  `audio/embed` and `text/embed` [B, D] are projected into the space of both, and not normalised. The scales
  are logs of the factors of their cosines, one for a sound's scores over texts, one for a text's over sounds.

  Attributes:
    audio: the tower of sounds.
    text: the text tower.
    width: D, and of the hidden layers of the projections.
    act: activation of the projections.
  """

  audio: Module
  text: Module
  width: Size = 512
  act: Activation = 'relu'

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    taps = {}
    for name, tower in (('audio', self.audio), ('text', self.text)):
      outputs = tower(inputs, train=train)
      outputs |= {'embed': Projection(self.width, self.act, name=f'project_{name}')(outputs['embed'])}
      taps |= {f'{name}/{tap}': x for tap, x in outputs.items()}
    first = nn.initializers.constant(math.log(1 / 0.07))
    return taps | {k: jnp.asarray(self.param(k, first, ())) for k in ('logit_scale', 'logit_scale_text')}
