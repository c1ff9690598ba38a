"""HTS-AT, a Swin Transformer over a folded spectrogram (Chen et al., 2202.00874), CLAP's (2211.06687)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.models.vision.dinov2 import cubic
from kdjax.models.vision.swin import EPS, stages
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Activation, Classifier
from kdjax.nn.log_mel import read_mel, settings
from kdjax.options import Blocks, Eps, Multiplier, Rate, Size, Sizes
from kdjax.types import Array


def folded(mel: Array, side: int) -> Array:
  """`[B, T, M]` -> `[B, side, side, 1]`: the time in side / M parts, one below the other, mels downwards.

  The frames are as many as fill the map, by cubic interpolation where there are fewer.

  Raises:
    KdjaxError: if the mels do not divide `side`, or there are more frames than fit.
  """
  b, frames, mels = mel.shape
  parts = side // mels
  if side % mels or frames > parts * side:
    raise KdjaxError(
      f'a spectrogram of {frames} frames and {mels} mels is not folded into {side}×{side}: side has to be a '
      f'multiple of the mels, and the frames at most {parts * side}.'
    )
  if frames < parts * side:
    weights = jnp.asarray(cubic(frames, parts * side, aligned=True), mel.dtype)
    mel = jnp.einsum('tf,bfm->btm', weights, mel, precision=jax.lax.Precision.HIGHEST)
  return mel.reshape(b, parts, side, mels).swapaxes(2, 3).reshape(b, side, side, 1)


class Htsat(nn.Module):
  """Taps: `stem`, `stage1` ... and `tokens` [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  Reads `audio` [B, N] at the rate of `mel`, or a spectrogram `mel` [B, T, M]. Each mel is normalised, and the
  spectrogram folded into a square map. A stage's tap is before its patches are merged, `tokens` come out of
  the last norm, and `embed` is their mean; padding is read as any other frame. The defaults are those of
  CLAP without fusion.

  Attributes:
    mel: a preset of `kdjax.nn.log_mel`, or `{'preset': ..., setting: value}`.
    side: of the map, a multiple of the mels.
    width: channels of the first stage, twice as many in each further one.
    depths: blocks of each stage.
    heads: attention heads of each stage, divisors of its channels.
    window: the side of a window, in patches, as in `swin`.
    patch: the side of a patch, a divisor of `side`.
    mlp: width of a block's hidden layer, as a multiple of the stage's.
    act: activation of the MLP.
    eps: of the layer norms of the blocks.
    dropout: probability, after attention and after the MLP.
    num_classes: None for an encoder without `logits`.
  """

  mel: str | Mapping[str, Any] = 'clap'
  side: Size = 256
  width: Size = 96
  depths: Blocks = (2, 2, 6, 2)
  heads: Sizes = (4, 8, 16, 32)
  window: Size = 8
  patch: Size = 4
  mlp: Multiplier = 4.0
  act: Activation = 'gelu'
  eps: Eps = 1e-5
  dropout: Rate = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    mel, _ = read_mel(inputs, settings(self.mel))
    if self.side % self.patch:
      raise KdjaxError(f'htsat.side is {self.side}, and patch {self.patch}: it has to divide the side.')
    x = folded(nn.BatchNorm(not train, momentum=0.9, name='mel_norm')(mel), self.side)
    sides = (self.patch, self.patch)
    x = nn.LayerNorm(EPS, name='stem_norm')(Conv(self.width, sides, sides, 'VALID', name='stem')(x))
    taps = {'stem': x} | stages(self, x, train, 'htsat', 'set side to {0} or more')
    taps['tokens'] = x = nn.LayerNorm(EPS, name='norm')(taps[f'stage{len(self.depths)}'])
    taps['embed'] = x.mean((1, 2))
    return Classifier(self.num_classes, name='head')(taps)
