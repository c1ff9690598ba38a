"""Whisper's encoder: two convolutions over log-mel frames, then a pre-norm Transformer (2212.04356)."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Activation, Block, Classifier, activation, masked_mean
from kdjax.nn.log_mel import read_mel, settings
from kdjax.options import Depth, Eps, Rate, Size
from kdjax.types import Array

Pool = Literal['mean', 'all']


def sinusoids(length: int, width: int) -> Array:
  """Positions [length, width]: sines, then cosines, of wavelengths from 2π to 20000π (Vaswani et al.)."""
  rates = jnp.exp(-math.log(10000) / max(width // 2 - 1, 1) * jnp.arange(width // 2))
  angles = jnp.arange(length)[:, None] * rates
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], 1)


class WhisperEncoder(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L],
  `embed` [B, D], and optionally `logits` [B, C]; L is half the number of frames, rounded up.

  Reads `audio` [B, N] at the rate of `mel`, or a spectrogram `mel` [B, T, M]. The attentions are
  scores before the softmax; `tokens` come out of the last norm, and `embed` is their mean. As
  published, padding is attended to as well. The table of positions is not trained: it lies among the
  variables in 'buffers'. Deviations: keys have a bias, 0 in published weights, which does not change the
  softmax; a spectrogram of fewer than 2 · `positions` frames is not padded to them, unless `mel` has that
  `length`. The defaults are those of whisper-tiny.

  Attributes:
    mel: a preset of `kdjax.nn.log_mel`, or `{'preset': ..., setting: value}`.
    width: D, even.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer.
    positions: the largest L.
    act: activation of the MLP.
    eps: of the layer norms.
    dropout: probability, after the embeddings, after attention and after the MLP.
    pool: 'mean' for an `embed` over the valid positions of 'audio/mask' or 'mel/mask', 'all' for one over all
      positions with the padding, as in published classifiers.
    project: width of a linear layer before that of the classes, as published classifiers have; None for none.
    num_classes: None for an encoder without `logits`.
  """

  mel: str | Mapping[str, Any] = 'whisper'
  width: Size = 384
  depth: Depth = 4
  heads: Size = 6
  mlp: Size = 1536
  positions: Size = 1500
  act: Activation = 'gelu'
  eps: Eps = 1e-5
  dropout: Rate = 0.0
  pool: Pool = 'mean'
  project: Size | None = None
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x, mask = read_mel(inputs, settings(self.mel))
    if x.shape[1] > 2 * self.positions:
      raise KdjaxError(
        f'{x.shape[1]} mel frames are more than the model reads: cut them to {2 * self.positions}, or set '
        f'its positions to {(x.shape[1] + 1) // 2} or more.'
      )
    if self.pool not in get_args(Pool):
      raise unknown('pool of the model whisper_encoder', self.pool, get_args(Pool))
    if self.width % 2:
      raise KdjaxError(f'whisper_encoder.width is {self.width}; sines and cosines need an even one.')
    gelu, pads = activation('gelu'), ((1, 1), (0, 0))  # in 2-D, where `Conv` has fast gradients
    x = gelu(Conv(self.width, (3, 1), 1, pads, name='conv1')(x[:, :, None]))
    x = gelu(Conv(self.width, (3, 1), (2, 1), pads, name='conv2')(x))[:, :, 0]
    table = self.variable('buffers', 'positions', sinusoids, self.positions, self.width).value
    x += table[: x.shape[1]].astype(x.dtype)
    taps = {'embeddings': x}
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    for i in range(1, self.depth + 1):
      block = Block(self.heads, self.mlp, self.eps, self.act, self.dropout, pre_norm=True, name=f'block{i}')
      x, taps[f'attention{i}'] = block(x, train=train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = nn.LayerNorm(self.eps, name='norm')(x)
    taps['embed'] = masked_mean(x, None if mask is None or self.pool == 'all' else mask[:, ::2])
    return Classifier(self.num_classes, self.project, name='head')(taps)
