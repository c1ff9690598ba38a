"""Vision Transformer with a class token, as published: ViT, DeiT, CLIP (Dosovitskiy et al., 2010.11929)."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.nn.conv import Conv
from kdjax.nn.layers import Activation, Block, Classifier, patch_grid, standardised
from kdjax.options import Depth, Eps, Means, Rate, Scales, Size
from kdjax.types import Array


def unmasked(x: Array, share: float, inputs: Mapping[str, Array], first: int = 1) -> Array:
  """[B, F + L, D] -> [B, F + K, D]: the first tokens, and the patches that remain when a share is dropped.

  A pure function of 'id' and 'epoch' [B], as augmentation is; without them, of the place in the batch.
  """
  b, n = len(x), x.shape[1] - first
  rows, zeros = jnp.arange(b), jnp.zeros(b, jnp.int32)

  def draw(epoch, example):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), epoch), example)
    return jax.random.permutation(key, n)[: int(n * (1 - share))]

  indices = jax.vmap(draw)(inputs.get('epoch', zeros), inputs.get('id', rows))
  return jnp.concatenate([x[:, :first], jnp.take_along_axis(x[:, first:], indices[..., None], 1)], 1)


class Heads(nn.Module):
  """Adds `logits` [B, C], the mean of a classifier of the class token and one of the distillation token."""

  num_classes: int | None

  @nn.compact
  def __call__(self, taps):
    if not self.num_classes:
      return taps
    embeds = {'linear': taps['embed'], 'distillation': taps['distillation_embed']}
    logits = [nn.Dense(self.num_classes, name=name)(x) for name, x in embeds.items()]
    return taps | {'logits': sum(logits) / 2}


class VitClassToken(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, 1 + L, D], `attention1` ... [B, heads, 1 + L, 1 + L],
  `embed` [B, D], and optionally `masked_embed` [B, D] and `logits` [B, C].

  The class token is the first; `tokens` come out of the last norm, and `embed` is the first of
  them. DeiT has a second token before the patches, for distillation (2012.12877), and `distillation_embed`
  [B, D] beside `embed`. The attentions are scores before the softmax. Deviation from the paper: no dropout
  of the embeddings. The defaults are those of ViT-B/16 for 224 pixels in transformers.

  Attributes:
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer.
    patch: the side of a patch; the image has to divide into patches.
    act: activation of the MLP.
    eps: of the layer norms.
    clip: for CLIP's image tower, with a norm before the first block and patches without a bias.
    distilled: '' without a distillation token; 'token' with one that no classifier reads; 'heads' with a
      classifier of its own, the logits being the mean of both.
    dropout: probability, after attention and after the MLP.
    masked: share of the patches that are dropped, others for each image of an epoch, for `masked_embed`,
      the class token over the remaining ones; 0 for none. The other taps are over all patches.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
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
  distilled: Literal['', 'token', 'heads'] = ''
  dropout: Rate = 0.0
  masked: Rate = 0.0
  mean: Means = (0.5, 0.5, 0.5)
  std: Scales = (0.5, 0.5, 0.5)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = standardised(inputs, self.mean, self.std)
    b = x.shape[0]
    patch_grid(x, self.patch)
    sides = (self.patch, self.patch)
    x = Conv(self.width, sides, sides, 'VALID', use_bias=not self.clip, name='patch')(x)
    first = self.param('class', nn.initializers.normal(0.02), (1, 1, self.width))
    first = jnp.broadcast_to(first.astype(x.dtype), (b, 1, self.width))
    first = [first]
    if self.distilled:
      second = self.param('distillation', nn.initializers.normal(0.02), (1, 1, self.width))
      first.append(jnp.broadcast_to(second.astype(x.dtype), (b, 1, self.width)))
    x = jnp.concatenate([*first, x.reshape(b, -1, self.width)], 1)
    x += self.param('position', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    x = nn.LayerNorm(self.eps, name='norm_in')(x) if self.clip else x
    taps, norm = {'embeddings': x}, nn.LayerNorm(self.eps, name='norm')
    args = self.heads, self.mlp, self.eps, self.act, self.dropout
    blocks = [Block(*args, pre_norm=True, name=f'block{i}') for i in range(1, self.depth + 1)]
    for i, block in enumerate(blocks, 1):
      x, taps[f'attention{i}'] = block(x, train=train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = norm(x)
    taps['embed'] = x[:, 0]
    if self.distilled:
      taps['distillation_embed'] = x[:, 1]
    if self.masked:
      x = unmasked(taps['embeddings'], self.masked, inputs, len(first))
      for block in blocks:
        x, _ = block(x, train=train)
      taps['masked_embed'] = norm(x)[:, 0]
    head = Heads if self.distilled == 'heads' else Classifier
    return head(self.num_classes, name='head')(taps)
