"""Pairs of one group, such as the captions of an image: no wrong ones of each other."""

import jax.numpy as jnp

from kdjax.types import Array, Batch


def contrasted(batch: Batch, mask: Array) -> Array:
  """What each example of a batch is contrasted with, for a softmax over the batch with one right answer.

  Itself and the examples of other groups, `[B, B]`: 1 at (i, j) where j is one for i. Where the batch has no
  'group' [B], all of them: `mask` as it is.

  Args:
    batch: with or without 'group', where equal numbers are of one group.
    mask: `[B]`, 0 for padding.
  """
  group = batch.get('group')
  if group is None:
    return mask
  return mask * (jnp.eye(len(mask), dtype=bool) | (group[:, None] != group))
