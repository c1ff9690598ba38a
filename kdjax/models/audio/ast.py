"""Audio Spectrogram Transformer: DeiT over overlapping patches of a spectrogram (Gong et al., 2104.01778)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Activation, Block
from kdjax.nn.log_mel import read_mel, settings
from kdjax.options import Depth, Eps, Rate, Size


class Ast(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, 2 + L, D], `attention1` ... [B, heads, 2 + L, 2 + L],
  `embed` [B, D], and optionally `logits` [B, C].

  Reads a spectrogram `mel` [B, T, M], or computes it from `audio` [B, N]. Published weights need 1024 frames
  of Kaldi's 128 log filter banks, normalised as (x - mean) / (2 std) of the training data, which is the
  preset 'ast'. The patches run through all frames of the lowest mels first. The class and the distillation
  token are the first two; `tokens` come out of the last norm, and `embed` is the mean of the two. The
  attentions are scores before the softmax; padding is attended to as any other frame. The defaults are those
  of the AudioSet model.

  Attributes:
    mel: a preset of `kdjax.nn.log_mel`, or `{'preset': ..., setting: value}`, for `audio`.
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer.
    patch: the side of a patch, in frames and mels.
    time_stride: frames from one patch to the next.
    frequency_stride: mels from one patch to the next.
    act: activation of the MLP.
    eps: of the layer norms.
    dropout: probability, after the embeddings, after attention and after the MLP.
    num_classes: None for an encoder without `logits`.
  """

  mel: str | Mapping[str, Any] = 'ast'
  width: Size = 768
  depth: Depth = 12
  heads: Size = 12
  mlp: Size = 3072
  patch: Size = 16
  time_stride: Size = 10
  frequency_stride: Size = 10
  act: Activation = 'gelu'
  eps: Eps = 1e-12
  dropout: Rate = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x, _ = read_mel(inputs, settings(self.mel))
    b, frames, mels = x.shape
    if min(frames, mels) < self.patch:
      raise KdjaxError(
        f'a spectrogram of {frames} frames and {mels} mels holds no patch of {self.patch}×{self.patch}: '
        f'set patch to {min(frames, mels)} or less.'
      )
    sides, strides = (self.patch, self.patch), (self.frequency_stride, self.time_stride)
    x = Conv(self.width, sides, strides, 'VALID', name='patch')(x.swapaxes(1, 2)[..., None])
    names = ('class', 'distillation')
    first = [self.param(k, nn.initializers.normal(0.02), (1, 1, self.width)) for k in names]
    first = [jnp.broadcast_to(token.astype(x.dtype), (b, 1, self.width)) for token in first]
    x = jnp.concatenate([*first, x.reshape(b, -1, self.width)], 1)
    x += self.param('position', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    taps = {'embeddings': x}
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    for i in range(1, self.depth + 1):
      block = Block(self.heads, self.mlp, self.eps, self.act, self.dropout, pre_norm=True, name=f'block{i}')
      x, taps[f'attention{i}'] = block(x, train=train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = nn.LayerNorm(self.eps, name='norm')(x)
    taps['embed'] = (x[:, 0] + x[:, 1]) / 2
    return NormedClassifier(self.num_classes, self.eps, name='head')(taps)


class NormedClassifier(nn.Module):
  """Adds `logits` [B, C], of a layer norm and a dense layer, if `num_classes` is set."""

  num_classes: int | None
  eps: float

  @nn.compact
  def __call__(self, taps):
    if not self.num_classes:
      return taps
    x = nn.LayerNorm(self.eps, name='norm')(taps['embed'])
    return taps | {'logits': nn.Dense(self.num_classes, name='linear')(x)}
