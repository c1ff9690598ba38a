"""Multimodal Transformer: each modality attends to every other, unaligned (MulT, Tsai et al., 1906.00295)."""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Block, feature_sequence, masked_mean
from kdjax.options import Depth, Rate, Size, Taps

POOLS = ('last', 'mean')


def positions(length: int, width: int):
  """Sines, then cosines, of each position [length, width] (Vaswani et al., 1706.03762)."""
  half = (width + 1) // 2
  angles = jnp.arange(length)[:, None] / 10000 ** (jnp.arange(half) / max(half - 1, 1))
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)[:, :width]


class Stack(nn.Module):
  """Pre-norm layers over [B, L, D], each of which attends to the same source, or to its own input."""

  depth: int
  heads: int
  dropout: float

  @nn.compact
  def __call__(self, x, mask, train, source=None):
    for i in range(1, self.depth + 1):
      block = Block(self.heads, 4 * x.shape[-1], 1e-5, 'relu', self.dropout, pre_norm=True, name=f'block{i}')
      x, _ = block(x, mask[:, None, None], train, source)
    return nn.LayerNorm(1e-5, name='norm')(x)


class Mult(nn.Module):
  """Taps: of each modality m `<m>/tokens` [B, L_m, (M - 1) · D] and `<m>/embed` [B, (M - 1) · D]; `embed`
  [B, M · (M - 1) · D], and optionally `logits` [B, C].

  Each of M modalities is projected to the width D, and repeatedly attends to the lowest features of each of
  the others; the outputs are joined, go through a Transformer of the modality, and are pooled at the last
  valid position. Lengths may differ. A modality that an example lacks, by '<m>/present' or because no
  position of it is valid, is attended to by none and has an `embed` of zeros.

  Deviations: as in the authors' code the residuals bypass the norms, and the final residual block comes
  before the head; its mask of later positions, which the paper does not have, is left out, padding is
  masked, and one dropout is in the place of six rates.

  Attributes:
    modalities: the inputs that it reads, each [B, L, F] with '<m>/mask'.
    width: D, even.
    depth: layers of each Transformer, of the M · (M - 1) across and the M within.
    heads: attention heads, a divisor of D.
    kernel: of the convolution over time that projects a modality.
    dropout: probability, of the inputs, after attention, after the MLP, and before the head.
    pool: 'last', or 'mean' over the valid positions.
    num_classes: None for an encoder without `logits`.
  """

  modalities: Taps = ('words', 'audio', 'video')
  width: Size = 40
  depth: Depth = 4
  heads: Size = 8
  kernel: Size = 1
  dropout: Rate = 0.0
  pool: Literal['last', 'mean'] = 'last'
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    if self.pool not in POOLS:
      raise unknown('pool of the model mult', self.pool, POOLS)
    drop = nn.Dropout(self.dropout, deterministic=not train)
    stack = partial(Stack, self.depth, self.heads, self.dropout)
    low, masks = {}, {}
    for m in self.modalities:
      x, mask = feature_sequence(inputs, m)
      present = inputs.get(f'{m}/present')
      masks[m] = mask if present is None else mask & (present[:, None] > 0)
      x = drop(jnp.where(masks[m][..., None], x, 0))
      conv = Conv(self.width, (self.kernel, 1), use_bias=False, name=f'project_{m}')
      x = conv(x[:, :, None])[:, :, 0]
      low[m] = drop(x * self.width**0.5 + positions(x.shape[1], self.width).astype(x.dtype))
    taps, embeds = {}, []
    for m in self.modalities:
      across = [
        stack(name=f'{m}_from_{other}')(low[m], masks[other], train, low[other])
        for other in self.modalities
        if other != m
      ]
      x = jnp.concatenate(across or [low[m]], -1)
      taps[f'{m}/tokens'] = x = stack(name=f'{m}_within')(x, masks[m], train)
      if self.pool == 'last':
        last = x.shape[1] - 1 - jnp.argmax(masks[m][:, ::-1], 1)
        x = jnp.take_along_axis(x, last[:, None, None], 1)[:, 0]
      else:
        x = masked_mean(x, masks[m])
      taps[f'{m}/embed'] = x = jnp.where(masks[m].any(1, keepdims=True), x, 0)
      embeds.append(x)
    x = jnp.concatenate(embeds, -1)
    y = drop(nn.relu(nn.Dense(x.shape[-1], name='hidden')(x)))
    taps['embed'] = x = x + nn.Dense(x.shape[-1], name='residual')(y)
    if self.num_classes:
      taps['logits'] = nn.Dense(self.num_classes, name='head')(x)
    return taps
