"""Vision Transformer with a class token, as published: ViT, DeiT, CLIP (Dosovitskiy et al., 2010.11929)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.conv import Conv
from kdjax.errors import KdjaxError
from kdjax.layers import Activation, Block, Classifier, standardised
from kdjax.options import Depth, Eps, Means, Rate, Scales, Size
from kdjax.types import Array


def unmasked(x: Array, share: float, inputs: Mapping[str, Array]) -> Array:
  """[B, 1 + L, D] -> [B, 1 + K, D]: the class token, and the patches that are left when a share is dropped.

  A pure function of 'id' and 'epoch' [B], as augmentation is; without them, of the place in the batch.
  """
  b, n = len(x), x.shape[1] - 1
  rows, zeros = jnp.arange(b), jnp.zeros(b, jnp.int32)

  def draw(epoch, example):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), epoch), example)
    return jax.random.permutation(key, n)[: int(n * (1 - share))]

  kept = jax.vmap(draw)(inputs.get('epoch', zeros), inputs.get('id', rows))
  return jnp.concatenate([x[:, :1], jnp.take_along_axis(x[:, 1:], kept[..., None], 1)], 1)


class VitClassToken(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, 1 + L, D], `attention1` ... [B, heads, 1 + L, 1 + L],
  `embed` [B, D], and when asked `masked_embed` [B, D] and `logits` [B, C].

  The class token is the first; `tokens` come out of the last norm, and `embed` is the first of
  them. The attentions are scores before the softmax. Deviation from the paper: no dropout of the
  embeddings. The defaults are those of ViT-B/16 for 224 pixels in transformers.

  Attributes:
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer.
    patch: the side of a patch; the image has to divide into patches.
    act: activation of the MLP.
    eps: of the layer norms.
    clip: for CLIP's image tower, with a norm before the first block and patches without a bias.
    dropout: probability, after attention and after the MLP.
    masked: share of the patches that are dropped, others for each image of an epoch, for `masked_embed`,
      which is what the rest makes of the class token; 0 for none. The other taps see all patches.
    mean: of the channels of an image in [0, 1], taken off it.
    std: what it is then divided by.
    num_classes: None for an encoder without `logits`.
  """

  width: Size = 768
  depth: Depth = 12
  heads: Size = 12
  mlp: Size = 3072
  patch: Size = 16
  act: Activation = 'gelu'
  eps: Eps = 1e-12
  clip: bool = False
  dropout: Rate = 0.0
  masked: Rate = 0.0
  mean: Means = (0.5, 0.5, 0.5)
  std: Scales = (0.5, 0.5, 0.5)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = standardised(inputs, self.mean, self.std)
    b, h, w, _ = x.shape
    if h % self.patch or w % self.patch:
      raise KdjaxError(f'an image of {h}×{w} does not divide into patches of {self.patch}×{self.patch}.')
    sides = (self.patch, self.patch)
    x = Conv(self.width, sides, sides, 'VALID', use_bias=not self.clip, name='patch')(x)
    first = self.param('class', nn.initializers.normal(0.02), (1, 1, self.width))
    first = jnp.broadcast_to(first.astype(x.dtype), (b, 1, self.width))
    x = jnp.concatenate([first, x.reshape(b, -1, self.width)], 1)
    x += self.param('position', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    x = nn.LayerNorm(self.eps, name='norm_in')(x) if self.clip else x
    taps, norm = {'embeddings': x}, nn.LayerNorm(self.eps, name='norm')
    given = self.heads, self.mlp, self.eps, self.act, self.dropout
    blocks = [Block(*given, pre_norm=True, name=f'block{i}') for i in range(1, self.depth + 1)]
    for i, block in enumerate(blocks, 1):
      x, taps[f'attention{i}'] = block(x, train=train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = norm(x)
    taps['embed'] = x[:, 0]
    if self.masked:
      x = unmasked(taps['embeddings'], self.masked, inputs)
      for block in blocks:
        x, _ = block(x, train=train)
      taps['masked_embed'] = norm(x)[:, 0]
    return Classifier(self.num_classes, name='head')(taps)
