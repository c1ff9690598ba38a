"""Pairs of one group, such as the captions of an image, which are no negatives of each other."""

import jax.numpy as jnp

from kdjax.types import Array, Batch


def contrasted(batch: Batch, mask: Array) -> Array:
  """The candidates of each example in a softmax over the batch: itself and the examples of other groups.

  `[B, B]`: 1 at (i, j) where j is a candidate of i. `mask` as it is where the batch has no 'group' [B].

  Args:
    batch: with or without 'group', where equal numbers are of one group.
    mask: `[B]`, 0 for padding.
  """
  group = batch.get('group')
  if group is None:
    return mask
  return mask * (jnp.eye(len(mask), dtype=bool) | (group[:, None] != group))
