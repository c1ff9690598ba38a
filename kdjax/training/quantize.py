"""A teacher's weights in fewer bits: bfloat16, or int8 with a scale for each channel."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.runtime import progress
from kdjax.training import memory
from kdjax.types import Array, Model

WEIGHTS = ('float32', 'bfloat16', 'int8')
# The arrays with most of the bytes -> their channel axis, with a scale for each channel.
CHANNELS = {'kernel': -1, 'embedding': 0}


class Int8(NamedTuple):
  """An array as values · scale.

  Attributes:
    values: i8, from -127 to 127.
    scale: f32, of size 1 on all axes but that of the channels.
  """

  values: Array | np.ndarray
  scale: Array | np.ndarray


def variables(full: Mapping, weights: str, xp: Any = np) -> Mapping:
  """Variables with kernels and embeddings in fewer bits; biases, norms and statistics are unchanged.

  int8 is symmetric: the largest value of a channel (an output of a kernel, a token's embedding) is 127.

  Args:
    full: the variables in float32.
    weights: one of `WEIGHTS`.
    xp: numpy, or jax.numpy within a program.
  """

  def quantized(path, x):
    axis = CHANNELS.get(path[-1].key)
    if weights == 'float32' or axis is None:
      return x
    if weights == 'bfloat16':
      return x.astype(jnp.bfloat16)
    scale = channel_scale(x, axis, 127, xp).astype(np.float32)
    return Int8(xp.round(x / scale).astype(np.int8), scale)

  return jax.tree_util.tree_map_with_path(quantized, full)


def channel_scale(x: Any, axis: int, top: int, xp: Any = np) -> Any:
  """What each channel of an array is divided by so that its largest value is `top`; 1 for one of zeros.

  Of size 1 on all axes but that of the channels. `xp` is numpy, or jax.numpy within a program.
  """
  others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
  largest = xp.max(xp.abs(x), others, keepdims=True)
  return xp.where(largest > 0, largest / top, 1)


def dequantize(quantized: Mapping) -> Mapping:
  """The variables of `variables`, back in float32."""

  def widen(x):
    if isinstance(x, Int8):
      return x.values.astype(jnp.float32) * x.scale
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x

  return jax.tree.map(widen, quantized, is_leaf=lambda x: isinstance(x, Int8))


def model(base: Model, weights: str) -> Model:
  """The model for the variables of `variables`, which `apply` dequantizes."""
  if weights == 'float32':
    return base
  return Model(base.init, lambda v, batch, **how: base.apply(dequantize(v), batch, **how))


def change(teacher: Model, full: Mapping, weights: str, batch: Mapping) -> dict[str, Any]:
  """The change of a model's outputs for a batch by fewer bits, measured and printed.

  Returns:
    'weights', 'bytes' and 'bytes_before' of the variables, 'examples', 'tap' (the one that is compared,
    'logits' or else 'embed'), 'max_difference' and 'mean_difference' of its values. For logits also
    'agreement', the share of examples with the same largest logit.
  """
  narrow = variables(full, weights)
  pairs = ((teacher, full), (model(teacher, weights), narrow))
  full_taps, narrow_taps = (
    jax.jit(lambda v, b, m=m: m.apply(v, b, train=False)[0])(v, batch) for m, v in pairs
  )
  tap = next((name for name in ('logits', 'embed') if name in full_taps), min(full_taps))
  exact, rounded = (np.asarray(x[tap], np.float64) for x in (full_taps, narrow_taps))
  difference, rows = np.abs(exact - rounded), len(jax.tree.leaves(batch)[0])
  sizes = memory.size(narrow), memory.size(full)
  measured = {'weights': weights, 'bytes': sizes[0], 'bytes_before': sizes[1]}
  measured |= {
    'examples': rows,
    'tap': tap,
    'max_difference': difference.max(),
    'mean_difference': difference.mean(),
  }
  agreement = ''
  if tap == 'logits':
    measured['agreement'] = np.mean(exact.argmax(-1) == rounded.argmax(-1))
    agreement = f', and the answer is the same for {100 * measured["agreement"]:.1f} %'
  progress.say(
    f'teacher: {weights} weights, {progress.size(sizes[0])} for {progress.size(sizes[1])}; '
    f'its {tap} differ by {difference.max():.2g} at most, {difference.mean():.2g} on average over {rows} '
    f'examples{agreement}'
  )
  return {k: v.item() if isinstance(v, np.generic) else v for k, v in measured.items()}
