"""Magnitude pruning: masks of the largest weights, at once, in rounds, or gradually within a training.

Han et al., 1506.02626, and 1510.00149, section 2; the gradual schedule of Zhu & Gupta, 1710.01878.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax.compress.tree import flat, nested, replaced
from kdjax.errors import KdjaxError, unknown
from kdjax.options import Count, Share, SomeShare, check

Scope = Literal['layer', 'global']
Densities = float | Mapping[str, float]  # of every layer, or by its path: 'hidden1/kernel'


def kernels(path: tuple[str, ...], x: Any) -> bool:
  """Whether an array is pruned by default: kernels of layers, those of distillation methods excepted."""
  return path[-1] == 'kernel' and path[0] != 'method' and x.ndim > 1


def masks(
  params: Mapping, density: Densities, scope: Scope = 'layer', chosen: Callable[..., bool] = kernels
) -> dict:
  """Masks of the weights with the largest magnitude, as a tree of bool with the chosen arrays of `params`.

  Exactly round(density · size) weights are kept, of a layer or of all together; of equal ones the first in C
  order. Weights that are 0 already are the first to go, so that pruning in rounds never brings one back.

  Args:
    params: the weights.
    density: the share that is kept; one a path, such as 'hidden1/kernel', where layers differ.
    scope: 'layer', or 'global' to rank all weights together, which takes one density.
    chosen: `(path, array) -> bool`.

  Raises:
    KdjaxError: for a density outside [0, 1], a path that is not among the chosen, or no array at all.
  """
  if scope not in get_args(Scope):
    raise unknown('scope of pruning', scope, get_args(Scope))
  sizes = {k: np.abs(np.asarray(v, np.float64)) for k, v in flat(params).items() if chosen(k, v)}
  if not sizes:
    raise KdjaxError('nothing to prune: no array of these weights is a kernel of two axes or more.')
  names = {'/'.join(k): k for k in sizes}
  if isinstance(density, Mapping):
    if scope == 'global':
      raise KdjaxError("scope='global' takes one density, and not one a layer.")
    for name in density.keys() - names.keys():
      raise unknown('layer to prune', name, names)
  of = density if isinstance(density, Mapping) else dict.fromkeys(names, density)
  for name, value in of.items():
    check(value, Share, f'the density of {name}')
  if scope == 'layer':
    kept = {names[n]: _largest(sizes[names[n]], round(d * sizes[names[n]].size)) for n, d in of.items()}
    return nested(kept)
  together = np.concatenate([x.reshape(-1) for x in sizes.values()])
  ends = np.cumsum([x.size for x in sizes.values()])[:-1]
  parts = np.split(_largest(together, round(float(density) * together.size)), ends)  # pyright: ignore[reportArgumentType]
  return nested({k: m.reshape(x.shape) for (k, x), m in zip(sizes.items(), parts, strict=True)})


def _largest(x: np.ndarray, n: int) -> np.ndarray:
  mask = np.zeros(x.size, bool)
  mask[np.argsort(-x, axis=None, kind='stable')[:n]] = True
  return mask.reshape(x.shape)


def apply(params: Mapping, masks: Mapping) -> dict:
  """`params` with 0 where a mask is 0 or False; others as they are. No gradient reaches a 0."""
  arrays = flat(params)
  masked = {k: jnp.where(jnp.asarray(m) != 0, arrays[k], 0) for k, m in flat(masks).items()}
  return replaced(params, masked)


def density(params: Mapping, chosen: Callable[..., bool] = kernels) -> dict[str, float]:
  """Path -> share of the weights that are not 0, of the chosen arrays."""
  arrays = {k: np.asarray(v) for k, v in flat(params).items() if chosen(k, v)}
  return {'/'.join(k): float(np.count_nonzero(v) / max(v.size, 1)) for k, v in arrays.items()}


def rounds(last: SomeShare, n: Count) -> tuple[float, ...]:
  """Densities of n rounds of pruning and retraining: each keeps the same share of what the one before kept.

  Raises:
    KdjaxError: for a density of 0, or no round.
  """
  check(last, SomeShare, 'the density of the last round')
  check(n, Count, 'the number of rounds')
  return tuple(last ** (i / n) for i in range(1, n + 1))


def cubic(density: SomeShare, start: int, stop: int) -> Callable:
  """`step -> density` of 1710.01878, equation 1: from 1 before `start` to `density` at `stop`.

  The sparsity 1 - density grows as s · (1 - (1 - x)³), fast at first, while most weights are of no use.

  Raises:
    KdjaxError: if `stop` is not after `start`.
  """
  if not 0 <= start < stop:
    raise KdjaxError(f'gradual pruning goes from step {start} to {stop}: it takes 0 <= start < stop.')

  def at(step):
    x = jnp.clip((jnp.asarray(step, jnp.float32) - start) / (stop - start), 0, 1)
    return 1 - (1 - density) * (1 - (1 - x) ** 3)

  return at


class Gradual(NamedTuple):
  """State of `gradually`.

  Attributes:
    count: i32 [], steps so far.
    masks: path -> bool.
  """

  count: Any
  masks: Any


def gradually(
  schedule: Callable, every: Count = 100, chosen: Callable[..., bool] = kernels
) -> optax.GradientTransformation:
  """An optax transformation, the last of a chain, that prunes each layer by magnitude as it is trained.

  Every so many steps the weights are ranked anew among those left, so that what is pruned stays 0.
  Deviation from 1710.01878: as in their later code the rank is of the weights after the update.

  Args:
    schedule: `step -> density`, such as `cubic`.
    every: steps between two rankings.
    chosen: `(path, array) -> bool`; paths are those of the tree that the optimiser gets.
  """

  def init(params):
    arrays = {k: v for k, v in flat(params).items() if chosen(k, v)}
    return Gradual(jnp.zeros((), jnp.int32), {k: jnp.ones(v.shape, bool) for k, v in arrays.items()})

  def update(updates, state, params=None):
    assert params is not None  # optax's type has it optional
    old, new = flat(params), flat(updates)

    def ranked():
      return {k: _top(jnp.abs(old[k] + new[k]) * m, schedule(state.count)) for k, m in state.masks.items()}

    kept = jax.lax.cond(state.count % every == 0, ranked, lambda: state.masks)
    kept = {k: m & state.masks[k] for k, m in kept.items()}
    held = {k: jnp.where(m, new[k], -old[k]) for k, m in kept.items()}
    return replaced(updates, held), Gradual(state.count + 1, kept)

  return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _top(x, share):
  """The mask of round(share · size) largest values, for a share that is traced."""
  rank = jnp.argsort(jnp.argsort(-x.reshape(-1), stable=True), stable=True)
  return (rank < jnp.round(share * x.size)).reshape(x.shape)


def keep_zero(masks: Mapping) -> optax.GradientTransformation:
  """An optax transformation, the last of a chain, that holds at 0 what `masks`, a part of the tree, prune."""
  of = flat(masks)

  def update(updates, params=None):
    assert params is not None
    old, new = flat(params), flat(updates)
    held = {k: jnp.where(jnp.asarray(m) != 0, new[k], -old[k]) for k, m in of.items()}
    return replaced(updates, held)

  return optax.stateless(update)
