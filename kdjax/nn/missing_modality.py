"""Batches that lack whole modalities: hidden on purpose, or at random in training."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.layers import scale_image
from kdjax.types import Batch, modalities


def hide(batch: Batch, name: str, present: jax.Array) -> dict:
  """`batch` without the modality where `present` [B] is 0: '<name>/present' records it, and no value is left.

  Its values become 0 and its mask empty, so that a model that does not read 'present' learns nothing
  of what is hidden either.
  """
  masked = dict(batch) | {f'{name}/present': present * batch.get(f'{name}/present', jnp.ones_like(present))}
  for key in (name, f'{name}/mask'):
    if key in batch:
      x = scale_image(batch[key])  # of bytes: 0 is grey then, not black
      masked[key] = jnp.where(present.reshape(-1, *[1] * (x.ndim - 1)) > 0, x, jnp.zeros_like(x))
  return masked


def drop_modalities(key: jax.Array, inputs: Mapping, rates: Mapping[str, float], hidden: bool = True) -> dict:
  """`inputs` with whole modalities absent, an example at a time: '<modality>/present' [B] becomes 0.

  Each of `rates` is dropped independently with its probability; an example that would keep none keeps all.

  Args:
    key: of the draw.
    inputs: of a model.
    rates: modality -> how often an example lacks it.
    hidden: whether the values become 0 too, as by `hide`. A model that ignores absent modalities can keep
      them, for the statistics of its batch norms.

  Raises:
    KdjaxError: where the only modality of the model would be dropped.
  """
  names = sorted(rates)
  rows = len(inputs[names[0]])
  present = jax.random.uniform(key, (rows, len(names))) >= jnp.array([rates[n] for n in names])
  others = any(k not in rates for k in modalities(inputs))
  if not others and len(names) == 1:
    raise KdjaxError(f'drop names {names[0]!r}, the only input of the model, which is never dropped.')
  present = present if others else present | ~present.any(1, keepdims=True)
  for i, name in enumerate(names):
    masked, flag = hide(inputs, name, present[:, i].astype(jnp.float32)), f'{name}/present'
    inputs = masked if hidden else dict(inputs) | {flag: masked[flag]}
  return dict(inputs)
