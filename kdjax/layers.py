"""Layers that several models share."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.types import Array


def read(inputs: Mapping[str, Array], key: str) -> Array:
  """`inputs[key]`, or an error that says what there is."""
  if key not in inputs:
    raise KdjaxError(
      f'the model wants the input {key!r} and the batch has {", ".join(sorted(inputs))}; map one '
      f'to it with inputs={{{key!r}: <batch key>}}, or choose another model.'
    )
  return inputs[key]


def scale_image(image: Array) -> Array:
  """u8 [B, H, W, C] to f32 in [-1, 1]; floats are taken as they are."""
  return image.astype(jnp.float32) / 127.5 - 1 if image.dtype == jnp.uint8 else image


def masked_mean(x: Array, mask: Array | None) -> Array:
  """Mean over the valid positions: x [B, L, D], mask [B, L] -> [B, D]."""
  if mask is None:
    return x.mean(1)
  m = mask.astype(x.dtype)[..., None]
  return (x * m).sum(1) / jnp.maximum(m.sum(1), 1)


def patches(image: Array, size: int) -> Array:
  """Non-overlapping patches: [B, H, W, C] -> [B, H/size, W/size, size·size·C].

  Raises:
    KdjaxError: if the image does not divide into patches.
  """
  b, h, w, c = image.shape
  if h % size or w % size:
    raise KdjaxError(f'an image of {h}×{w} does not divide into patches of {size}×{size}.')
  x = image.reshape(b, h // size, size, w // size, size, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // size, w // size, size * size * c)


class TransformerBlock(nn.Module):
  """A pre-norm Transformer layer over [B, L, D], with an optional mask [B, L] of the keys."""

  heads: int
  mlp_ratio: int = 4
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x, mask=None, train=False):
    width = x.shape[-1]
    keys = None if mask is None else nn.make_attention_mask(jnp.ones_like(mask), mask)
    y = nn.LayerNorm(name='norm1')(x)
    y = nn.MultiHeadDotProductAttention(self.heads, name='attention')(y, mask=keys)
    x = x + nn.Dropout(self.dropout, deterministic=not train)(y)
    y = nn.LayerNorm(name='norm2')(x)
    y = nn.gelu(nn.Dense(width * self.mlp_ratio, name='mlp_in')(y))
    y = nn.Dense(width, name='mlp_out')(y)
    return x + nn.Dropout(self.dropout, deterministic=not train)(y)


class Classifier(nn.Module):
  """Adds `logits` [B, C] to the taps of an encoder, where classes are asked for."""

  num_classes: int | None

  @nn.compact
  def __call__(self, taps):
    if not self.num_classes:
      return taps
    return taps | {'logits': nn.Dense(self.num_classes, name='linear')(taps['embed'])}
