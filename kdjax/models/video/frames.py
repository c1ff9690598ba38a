"""A model of images on each frame of a video, and a model of sequences, or a mean, over the frames."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn.layers import Classifier, masked_mean, read
from kdjax.options import Size
from kdjax.types import Module


class Frames(nn.Module):
  """Taps: those of the image model as `frame/<tap>` [B, T, ...], `tokens` [B, T, D], `embed`, `logits`.

  Reads `video` [B, T, H, W, C] with `video/mask` [B, T] where there is one. A batch norm of the image model
  sees frames that are not valid too.

  Attributes:
    image: a model of images that gives `embed`, published weights and all.
    sequence: a model of '<modality>' [B, L, F] with `modality='frames'`, such as `temporal_cnn`, whose taps
      are `sequence/<tap>`; None for a mean or maximum over time.
    pool: 'mean' or 'max' over the valid frames, without `sequence`.
    num_classes: None for an encoder without `logits`.
  """

  image: Module
  sequence: Module | None = None
  pool: Literal['mean', 'max'] = 'mean'
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    video, mask = read(inputs, 'video', 'BTHWC'), inputs.get('video/mask')
    b, t = video.shape[:2]
    of_frame = self.image({'image': video.reshape(b * t, *video.shape[2:])}, train=train)
    rows = {k: x for k, x in of_frame.items() if x.shape[:1] == (b * t,)}
    taps = {f'frame/{k}': x.reshape(b, t, *x.shape[1:]) for k, x in rows.items()}
    taps['tokens'] = tokens = taps['frame/embed']
    if self.sequence is not None:
      frames = {'frames': tokens} | ({} if mask is None else {'frames/mask': mask})
      of_sequence = self.sequence(frames, train=train)
      taps |= {f'sequence/{k}': x for k, x in of_sequence.items()}
      taps['embed'] = of_sequence['embed']
    elif self.pool == 'mean':
      taps['embed'] = masked_mean(tokens, mask)
    else:
      valid = jnp.ones((b, t), bool) if mask is None else mask > 0
      largest = jnp.where(valid[..., None], tokens, jnp.finfo(tokens.dtype).min).max(1)
      taps['embed'] = jnp.where(valid.any(1, keepdims=True), largest, 0)
    return Classifier(self.num_classes, name='head')(taps)
