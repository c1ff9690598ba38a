"""Checks that weights are finite."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError


def finite(tree: Any) -> bool:
  """Whether no array of a tree has a NaN or an infinity."""
  arrays = (np.asarray(x) for x in jax.tree.leaves(tree))
  return all(np.isfinite(x).all() for x in arrays if jnp.issubdtype(x.dtype, jnp.floating))


def check(tree: Any, name: str, advice: str) -> Any:
  """The tree.

  Raises:
    KdjaxError: if it is not finite.
  """
  if not finite(tree):
    raise KdjaxError(f'{name} has weights that are not finite: {advice}.')
  return tree
