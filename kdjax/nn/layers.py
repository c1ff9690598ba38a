"""Layers that several models share."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.types import Array, meaning

Activation = Literal[
  'relu',
  'relu6',
  'silu',
  'hard_swish',
  'tanh',
  'identity',
  'gelu',
  'gelu_new',
  'gelu_pytorch_tanh',
  'quick_gelu',
]
ACTIVATIONS = {
  'relu': nn.relu,
  'relu6': nn.relu6,
  'silu': nn.silu,
  'hard_swish': nn.hard_swish,
  'tanh': jnp.tanh,
  'identity': lambda x: x,
  'gelu': partial(nn.gelu, approximate=False),
  'gelu_new': nn.gelu,  # the tanh approximation
  'gelu_pytorch_tanh': nn.gelu,
  'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x),
}


def activation(name: str) -> Callable:
  """The function that a config.json names.

  Raises:
    KdjaxError: for an unknown one.
  """
  if name not in ACTIVATIONS:
    raise unknown('activation', name, ACTIVATIONS)
  return ACTIVATIONS[name]


# '<input>/computed' is of the type that a model computes in, where it gets that input in float32.
COMPUTED = '/computed'
FEATURES = '/features'  # '<input>/features' is what a frozen encoder gives of an input, computed once


def without_features(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays of a batch as a user brings them, without `FEATURES`."""
  return {k: v for k, v in arrays.items() if FEATURES not in k}


def read(inputs: Mapping[str, Array], key: str, axes: str = '') -> Array:
  """`inputs[key]`.

  Args:
    inputs: of a model.
    key: one of them.
    axes: the letters of its axes, such as 'BHWC'; '' for any.

  Raises:
    KdjaxError: if it is not there, which lists the keys of the batch, or has other axes.
  """
  if key not in inputs:
    raise KdjaxError(
      f'the model wants the input {key!r}{meaning(key)} and the batch has {", ".join(sorted(inputs))}; map '
      f'one to it with inputs={{{key!r}: <batch key>}}, or choose another model.'
    )
  if axes and inputs[key].ndim != len(axes):
    shape = list(inputs[key].shape)
    raise KdjaxError(
      f'the model reads {key!r} as [{", ".join(axes)}], and the batch has {shape} there: map another key to '
      f'it with inputs={{{key!r}: <batch key>}}, or choose a model of such data.'
    )
  return inputs[key]


def mapped(batch: Mapping[str, Array], inputs: Mapping[str, str]) -> dict[str, Array]:
  """The inputs of a model, by its own names.

  Args:
    batch: key -> array.
    inputs: model input -> key, along with its '/mask' and '/present'; empty for the batch as it is.

  Raises:
    KdjaxError: for a key that is not in the batch.
  """
  arrays = {}
  for name, key in (inputs or {k: k for k in batch}).items():
    if key not in batch:
      raise KdjaxError(
        f'inputs maps {name!r} to {key!r}{meaning(key)}, and the batch has {", ".join(sorted(batch))}.'
      )
    below = [k for k in batch if k == key or k.startswith(f'{key}/')]
    arrays |= {name + k.removeprefix(key): batch[k] for k in below}
  return arrays


def feature_sequence(inputs: Mapping[str, Array], key: str) -> tuple[Array, Array]:
  """Vectors [B, L, F] and which of them are valid, bool [B, L].

  Raises:
    KdjaxError: if there is no such input, or it is of another shape.
  """
  x = read(inputs, key, 'BLF')
  mask = inputs.get(f'{key}/mask')
  return x, jnp.ones(x.shape[:2], bool) if mask is None else mask > 0


def narrowed(tree: Any, dtype: str) -> Any:
  """The float32 arrays of a tree in `dtype`, scalars excepted: exp of a rounded scale has a large error."""
  if dtype == 'float32':
    return tree
  return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 and x.ndim else x, tree)


def scale_image(image: Array) -> Array:
  """u8 [B, H, W, C] to f32 in [-1, 1]; floats are returned as they are."""
  return image.astype(jnp.float32) / 127.5 - 1 if image.dtype == jnp.uint8 else image


def standardised(inputs, mean: Sequence[float], std: Sequence[float]) -> Array:
  """`inputs['image']`, u8 or floats in [-1, 1], as (x - mean) / std of x in [0, 1]; grey becomes colour.

  Raises:
    KdjaxError: if it has another number of channels.
  """
  x = scale_image(read(inputs, 'image', 'BHWC'))
  channels = max(len(mean), len(std))
  if x.shape[-1] not in (1, channels) and channels > 1:
    raise KdjaxError(f'the model scales {channels} channels of an image, and the data have {x.shape[-1]}.')
  offset, scale = (jnp.asarray(v, x.dtype) for v in (mean, std))
  return (x / 2 + 0.5 - offset) / scale


def masked_mean(x: Array, mask: Array | None) -> Array:
  """Mean over the valid positions: x [B, L, D], mask [B, L] -> [B, D]."""
  if mask is None:
    return x.mean(1)
  m = mask.astype(x.dtype)[..., None]
  return (x * m).sum(1) / jnp.maximum(m.sum(1), 1)


def patch_grid(image: Array, size: int) -> tuple[int, int]:
  """(rows, columns) of the patches of an image [B, H, W, C].

  Raises:
    KdjaxError: if the image does not divide into patches.
  """
  h, w = image.shape[1:3]
  if h % size or w % size:
    raise KdjaxError(f'an image of {h}×{w} does not divide into patches of {size}×{size}.')
  return h // size, w // size


def patches(image: Array, size: int) -> Array:
  """Non-overlapping patches: [B, H, W, C] -> [B, H/size, W/size, size·size·C].

  Raises:
    KdjaxError: if the image does not divide into patches.
  """
  b, h, w, c = image.shape
  patch_grid(image, size)
  x = image.reshape(b, h // size, size, w // size, size, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // size, w // size, size * size * c)


def image_scores(scores: Array, seen: Array, placed: Array, count: int) -> Array:
  """Attention to an image's tokens within a sequence: [B, heads, L, M] -> [B, heads, L, P + 1].

  Scores before the softmax, of the image's places in their order, and in the last entry the log of the sum
  of the exponentials of all others: their softmax is what each position attends to. What is not seen has
  the least score there is, and so has a place of the image that there is none for.

  Args:
    scores: before the mask and the softmax.
    seen: bool, broadcasts to them: what a position attends to.
    placed: bool [B, M], the places of the image.
    count: P, how many there are.
  """
  least = jnp.finfo(scores.dtype).min
  masked = jnp.where(seen, scores, least)
  at = jnp.argsort(~placed, axis=1, stable=True)[:, :count]
  image = jnp.take_along_axis(jnp.where(placed[:, None, None], masked, least), at[:, None, None], -1)
  rest = jax.nn.logsumexp(jnp.where(placed[:, None, None], least, masked), -1, keepdims=True)
  return jnp.concatenate([image, rest], -1)


class Attention(nn.Module):
  """Attention of [B, L, D] over itself, or another sequence, which also returns its scores [B, heads, L, M].

  The scores are q·k / √d before the mask and the softmax, those of padding included: methods mask them
  themselves. `mask` broadcasts to them. Over a source [B, M, D] that is masked throughout, attention is 0.
  With a cache, (keys, values) of [B, M, D] each, those of x are written to the positions `at` [B, L], x
  attends over the whole cache, and the new (keys, values) are returned in place of the scores.
  """

  heads: int

  @nn.compact
  def __call__(self, x, mask=None, source=None, cache=None, at=None) -> tuple[Array, Any]:
    b, length, width = x.shape
    sources = {'query': x} | dict.fromkeys(('key', 'value'), x if source is None else source)
    q, *keys_values = (nn.Dense(width, name=name)(y) for name, y in sources.items())
    if cache is not None:
      put = jax.vmap(lambda row, i, new: row.at[i].set(new))
      keys_values = [put(old, at, new) for old, new in zip(cache, keys_values, strict=True)]
    q, k, v = (y.reshape(b, y.shape[1], self.heads, -1) for y in (q, *keys_values))
    scores = jnp.einsum('bqhd,bkhd->bhqk', q, k) / jnp.sqrt(width // self.heads).astype(x.dtype)
    masked = scores if mask is None else jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(masked)
    if source is not None and mask is not None:
      weights = jnp.where(mask.any(-1, keepdims=True), weights, 0)
    y = jnp.einsum('bhqk,bkhd->bqhd', weights, v).reshape(b, length, width)
    return nn.Dense(width, name='out')(y), scores if cache is None else tuple(keys_values)


class Block(nn.Module):
  """A Transformer layer over [B, L, D], with the norm after each sum or before each branch.

  With a source [B, M, D] it attends over that, after the same norm, and the mask is the source's. `cache`
  is that of `Attention`.

  Attributes:
    heads: attention heads, a divisor of D.
    mlp: width of the hidden layer.
    eps: of the layer norms.
    act: activation of the hidden layer, a key of `ACTIVATIONS`.
    dropout: probability, after attention and after the MLP.
    pre_norm: whether the norms come before the branches.
  """

  heads: int
  mlp: int
  eps: float = 1e-6
  act: str = 'gelu'
  dropout: float = 0.0
  pre_norm: bool = False

  @nn.compact
  def __call__(self, x, mask=None, train=False, source=None, cache=None, at=None) -> tuple[Array, Any]:
    norm1, norm2 = (nn.LayerNorm(self.eps, name=name) for name in ('norm1', 'norm2'))
    drop = nn.Dropout(self.dropout, deterministic=not train)
    source = norm1(source) if self.pre_norm and source is not None else source
    attention = Attention(self.heads, name='attention')
    y, scores = attention(norm1(x) if self.pre_norm else x, mask, source, cache, at)
    x = x + drop(y)
    x = x if self.pre_norm else norm1(x)
    y = nn.Dense(self.mlp, name='mlp_in')(norm2(x) if self.pre_norm else x)
    y = nn.Dense(x.shape[-1], name='mlp_out')(activation(self.act)(y))
    x = x + drop(y)
    return x if self.pre_norm else norm2(x), scores


class Classifier(nn.Module):
  """Adds `logits` [B, C] to the taps of an encoder, if `num_classes` is set.

  Attributes:
    num_classes: C.
    project: the width of a linear layer before that of the classes; None for none.
  """

  num_classes: int | None
  project: int | None = None

  @nn.compact
  def __call__(self, taps):
    if not self.num_classes:
      return taps
    x = taps['embed']
    x = nn.Dense(self.project, name='project')(x) if self.project else x
    return taps | {'logits': nn.Dense(self.num_classes, name='linear')(x)}
