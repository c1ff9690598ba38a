"""Small residual convolutional network over a log-mel spectrogram, which it computes itself."""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.models.vision.resnet import BasicBlock
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, masked_mean
from kdjax.nn.log_mel import read_mel, settings
from kdjax.options import Blocks, Size, Sizes

POOLS = ('mean', 'max')


class MelCnn(nn.Module):
  """Taps: `mel` [B, T, M], `stem`, `stage1` ... [B, T', M', C], `embed` [B, D], and optionally `logits`.

  `stage1_before` ... are the same maps before their ReLU. Reads `audio` [B, N] at the rate of `mel`, with
  its `audio/mask` where there is one, or a spectrogram `mel` [B, T, M].

  Attributes:
    mel: a preset of `kdjax.nn.log_mel`, or `{'preset': ..., setting: value}`.
    widths: channels of each stage; each but the first halves the map.
    blocks: blocks of each stage.
    patch: frames and mels of the patches that the stem projects.
    pool: 'mean' or 'max' over the last map.
    bands: whether that is over time alone, so that D is M' · C.
    num_classes: None for an encoder without `logits`.
  """

  mel: str | Mapping[str, Any] = 'digits'
  widths: Sizes = (16, 32, 64)
  blocks: Blocks = (1, 1, 1)
  patch: tuple[Size, Size] = (2, 2)
  pool: Literal['mean', 'max'] = 'mean'
  bands: bool = False
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    mel, mask = read_mel(inputs, settings(self.mel))
    if self.pool not in POOLS:
      raise unknown('pool of mel_cnn', self.pool, POOLS)
    taps = {'mel': mel}
    patch = tuple(self.patch)
    x = Conv(self.widths[0], patch, patch, use_bias=False, name='stem')(mel[..., None])
    mask = mask if mask is None else mask[:, :: patch[0]]
    x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name='stem_norm')(x))
    taps['stem'] = x
    for i, (width, depth) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
      for j in range(depth):
        stride = 2 if i > 1 and j == 0 else 1
        before = BasicBlock(width, stride, name=f'stage{i}_block{j + 1}')(x, train)
        x = nn.relu(before)
        mask = mask if mask is None else mask[:, ::stride]
        taps[f'stage{i}_before'] = before
      taps[f'stage{i}'] = x
    taps['embed'] = self.pooled(x, mask)
    return Classifier(self.num_classes, name='head')(taps)

  def pooled(self, x, mask):
    """[B, T', M', C] -> [B, D] over the frames that are valid."""
    b, t, _, c = x.shape
    if not self.bands:
      x = x.mean(2) if self.pool == 'mean' else x.max(2)
    x = x.reshape(b, t, -1)
    if self.pool == 'mean':
      return masked_mean(x, mask)
    return x.max(1) if mask is None else jnp.where(mask[..., None] > 0, x, 0).max(1)  # x >= 0, after a ReLU
