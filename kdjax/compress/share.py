"""Weight sharing: centroids of k-means, and the index of each weight (1510.00149, section 3)."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, get_args

import jax.numpy as jnp
import numpy as np
from annotated_types import Interval

from kdjax.compress.prune import kernels
from kdjax.compress.tree import flat, nested, replaced
from kdjax.errors import KdjaxError, unknown
from kdjax.options import Count, Whole, check
from kdjax.types import Array

Start = Literal['linear', 'density', 'random']
Bits = Annotated[int, Interval(ge=1, le=16)]


def kmeans(
  values: np.ndarray, k: Count, start: Start = 'linear', iterations: Whole = 100, seed: Whole = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Lloyd's algorithm on numbers, equation 2 of the paper: (centroids f32 [K], sorted, index i32 [N]).

  Ends where no centroid moves. K is k, or less where values or their starts coincide; a centroid of no value
  is left out.

  Args:
    values: f32 [N].
    k: how many centroids.
    start: 'linear' between the smallest and the largest value, the paper's choice, since the few large
      weights matter; 'density', at equal steps of the distribution; 'random', values drawn (Forgy).
    iterations: the most.
    seed: of 'random'.

  Raises:
    KdjaxError: for a start of another name, or values that are not finite.
  """
  x = np.asarray(values, np.float64).reshape(-1)
  check(k, Count, 'the number of centroids')
  if not np.isfinite(x).all():
    raise KdjaxError('weights that are not finite cannot be shared.')
  if not x.size:
    return np.zeros(0, np.float32), np.zeros(0, np.int32)
  if start == 'linear':
    centroids = np.linspace(x.min(), x.max(), k) if k > 1 else np.array([x.mean()])
  elif start == 'density':
    centroids = np.quantile(x, (np.arange(k) + 0.5) / k)
  elif start == 'random':
    centroids = np.random.default_rng(seed).choice(x, min(k, x.size), replace=False)
  else:
    raise unknown('start of the centroids', start, get_args(Start))
  centroids = np.unique(centroids)
  for _ in range(iterations):
    index = _nearest(x, centroids)
    counts = np.bincount(index, minlength=len(centroids))
    sums = np.bincount(index, weights=x, minlength=len(centroids))
    moved = np.unique(np.where(counts > 0, sums / np.maximum(counts, 1), centroids))
    if np.array_equal(moved, centroids):
      break
    centroids = moved
  used, index = np.unique(_nearest(x, centroids), return_inverse=True)
  return centroids[used].astype(np.float32), index.astype(np.int32)


def _nearest(x, centroids):
  return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, x)


def share(
  params: Mapping,
  bits: int | Mapping[str, int],
  start: Start = 'linear',
  iterations: Whole = 100,
  chosen: Callable[..., bool] = kernels,
) -> tuple[dict, dict]:
  """Codebooks in place of the chosen arrays, and their indices.

  What is 0 is pruned: it has the index 0, and stays 0. The others have 1 to K, where K is at most 2^bits - 1.
  Deviation: the paper has 2^bits centroids, and no code for its filler zeros.

  Args:
    params: the weights.
    bits: of an index; one a path, such as 'hidden1/kernel', where layers differ.
    start, iterations: as for `kmeans`.
    chosen: `(path, array) -> bool`.

  Returns:
    (`params` with f32 [K] in place of the chosen arrays, the tree of their indices, i32 in their shapes).

  Raises:
    KdjaxError: for bits outside 1 to 16, or a path that is not among the chosen.
  """
  arrays = flat(params)
  names = {'/'.join(k): k for k, v in arrays.items() if chosen(k, v)}
  of = bits if isinstance(bits, Mapping) else dict.fromkeys(names, bits)
  books, index = {}, {}
  for name, n in of.items():
    if name not in names:
      raise unknown('layer to share', name, names)
    key, n = names[name], check(n, Bits, f'the bits of {name}')
    x = np.asarray(arrays[key], np.float32)
    codebook, inner = kmeans(x[x != 0], 2**n - 1, start, iterations)
    index[key] = np.zeros(x.shape, np.int32)
    index[key][x != 0] = inner + 1
    books[key] = codebook
  return replaced(params, books), nested(index)


def unshare(params: Mapping, index: Mapping) -> dict:
  """The weights: 0 where an index is 0, else codebook[index - 1].

  So the gradient of a centroid is the sum of those of its weights, equation 3 of the paper.
  """
  arrays = flat(params)
  return replaced(params, {k: _lookup(arrays[k], i) for k, i in flat(index).items()})


def _lookup(codebook: Array, index: Array) -> Array:
  padded = jnp.concatenate([jnp.zeros(1, jnp.asarray(codebook).dtype), codebook])
  return jnp.take(padded, index, mode='clip')
