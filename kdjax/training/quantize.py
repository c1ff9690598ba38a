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
# Where most of the bytes are, and the axis that has a scale for each of its places.
CHANNELS = {'kernel': -1, 'embedding': 0}


class Int8(NamedTuple):
  """values · scale, in place of an array.

  Attributes:
    values: i8, from -127 to 127.
    scale: f32, of the axis of the channels, the others 1.
  """

  values: Array | np.ndarray
  scale: Array | np.ndarray


def variables(full: Mapping, weights: str) -> Mapping:
  """Variables whose kernels and embeddings take less memory; biases, norms and statistics stay as they are.

  int8 is symmetric: the largest of a channel, that is of a kernel's output or a word's embedding, is 127.

  Args:
    full: of a model.
    weights: one of `WEIGHTS`.
  """

  def quantized(path, x):
    axis = CHANNELS.get(path[-1].key)
    if weights == 'float32' or axis is None:
      return x
    if weights == 'bfloat16':
      return x.astype(jnp.bfloat16)
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    top = np.max(np.abs(x), others, keepdims=True)
    scale = np.where(top > 0, top / 127, 1).astype(np.float32)
    return Int8(np.round(x / scale).astype(np.int8), scale)

  return jax.tree_util.tree_map_with_path(quantized, full)


def dequantize(quantized: Mapping) -> Mapping:
  """Variables in float32 of what `variables` gives."""

  def widen(x):
    if isinstance(x, Int8):
      return x.values.astype(jnp.float32) * x.scale
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x

  return jax.tree.map(widen, quantized, is_leaf=lambda x: isinstance(x, Int8))


def model(base: Model, weights: str) -> Model:
  """The model for variables from `variables`, which it widens when it is applied."""
  if weights == 'float32':
    return base
  return Model(base.init, lambda v, batch, **how: base.apply(dequantize(v), batch, **how))


def change(teacher: Model, full: Mapping, weights: str, batch: Mapping) -> dict[str, Any]:
  """What fewer bits do to a model's answers to a batch, measured and said.

  Returns:
    'weights', 'bytes' and 'bytes_before' of the variables, 'examples', and of the tap that it is measured
    on, 'logits' or else 'embed': 'tap', 'max_difference' and 'mean_difference' of its values. For logits
    also 'agreement', the share of examples whose largest is the same.
  """
  narrow = variables(full, weights)
  pairs = ((teacher, full), (model(teacher, weights), narrow))
  one, other = (jax.jit(lambda v, b, m=m: m.apply(v, b, train=False)[0])(v, batch) for m, v in pairs)
  tap = next((name for name in ('logits', 'embed') if name in one), min(one))
  one, other = (np.asarray(x[tap], np.float64) for x in (one, other))
  difference, rows = np.abs(one - other), len(jax.tree.leaves(batch)[0])
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
    measured['agreement'] = np.mean(one.argmax(-1) == other.argmax(-1))
    agreement = f', and the answer is the same for {100 * measured["agreement"]:.1f} %'
  progress.say(
    f'teacher: {weights} weights, {progress.size(sizes[0])} for {progress.size(sizes[1])}; '
    f'its {tap} differ by {difference.max():.2g} at most, {difference.mean():.2g} on average over {rows} examples{agreement}'
  )
  return {k: v.item() if isinstance(v, np.generic) else v for k, v in measured.items()}
