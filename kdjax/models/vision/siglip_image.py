"""SigLIP's image tower: a ViT with no class token, pooled by one learned query (Zhai et al., 2303.15343)."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.nn.conv import Conv
from kdjax.nn.layers import Activation, Block, Classifier, activation, patch_grid, standardised
from kdjax.options import Depth, Eps, Means, Rate, Scales, Size


class SiglipImage(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L],
  `embed` [B, D], and optionally `logits` [B, C].

  The attentions are scores before the softmax; `tokens` come out of the last norm, and `embed` is
  what the learned query makes of them, or their mean. The defaults are those of ViT-B/16 for 224 pixels.

  Attributes:
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer, and of the pool's.
    patch: the side of a patch; the image has to divide into patches.
    act: activation of the MLPs.
    eps: of the layer norms.
    dropout: probability, after attention and after the MLP.
    pool: 'probe' for the learned query, 'mean' for the towers of language models, which have none.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  width: Size = 768
  depth: Depth = 12
  heads: Size = 12
  mlp: Size = 3072
  patch: Size = 16
  act: Activation = 'gelu_pytorch_tanh'
  eps: Eps = 1e-6
  dropout: Rate = 0.0
  pool: Literal['probe', 'mean'] = 'probe'
  mean: Means = (0.5, 0.5, 0.5)
  std: Scales = (0.5, 0.5, 0.5)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = standardised(inputs, self.mean, self.std)
    b = x.shape[0]
    patch_grid(x, self.patch)
    sides = (self.patch, self.patch)
    x = Conv(self.width, sides, sides, 'VALID', name='patch')(x).reshape(b, -1, self.width)
    x += self.param('position', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    taps = {'embeddings': x}
    for i in range(1, self.depth + 1):
      block = Block(self.heads, self.mlp, self.eps, self.act, self.dropout, pre_norm=True, name=f'block{i}')
      x, taps[f'attention{i}'] = block(x, train=train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = nn.LayerNorm(self.eps, name='norm')(x)
    if self.pool == 'probe':
      taps['embed'] = Pool(self.heads, self.mlp, self.eps, self.act, name='pool')(x)
    else:
      taps['embed'] = x.mean(1)
    return Classifier(self.num_classes, name='head')(taps)


class Pool(nn.Module):
  """A learned query's attention over [B, L, D], and an MLP upon it: [B, D] (MAP of big_vision).

  Attributes:
    heads: attention heads, a divisor of D.
    mlp: width of the hidden layer.
    eps: of the layer norm.
    act: activation of the MLP.
  """

  heads: int
  mlp: int
  eps: float
  act: str

  @nn.compact
  def __call__(self, x):
    b, _, width = x.shape
    probe = self.param('probe', nn.initializers.normal(0.02), (1, 1, width)).astype(x.dtype)
    q, k, v = (
      nn.Dense(width, name=name)(y).reshape(*y.shape[:2], self.heads, -1)
      for name, y in (('query', probe), ('key', x), ('value', x))
    )
    scores = jnp.einsum('bhd,blhd->bhl', jnp.broadcast_to(q[:, 0], (b, *q.shape[2:])), k)
    weights = jax.nn.softmax(scores / jnp.sqrt(width // self.heads).astype(x.dtype))
    y = nn.Dense(width, name='out')(jnp.einsum('bhl,blhd->bhd', weights, v).reshape(b, width))
    hidden = nn.Dense(self.mlp, name='mlp_in')(nn.LayerNorm(self.eps, name='norm')(y))
    return y + nn.Dense(width, name='mlp_out')(activation(self.act)(hidden))
