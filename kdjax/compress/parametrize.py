"""Models whose weights are functions of what is trained: pruned by masks, or shared by codebooks.

They are Models as any other, so that every method, task, loop and evaluation of kdjax takes them unchanged.
What is not trained is a collection of their variables beside 'params', so one compiled step serves all masks.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.compress import prune, share
from kdjax.compress.tree import flat, nested
from kdjax.types import Model

MASKS, INDEX = 'masks', 'index'  # collections of variables


def transformed(base: Model, collection: str, split: Callable, weights: Callable) -> Model:
  """A model whose weights are `weights(variables['params'], variables[collection])`.

  Args:
    base: the model.
    collection: a name that `base` has no variables under.
    split: `weights of base -> (params, what is in the collection)`, at the initialisation.
    weights: the inverse.
  """

  def init(rng, batch):
    variables = base.init(rng, batch)
    params, others = split(variables['params'])
    return {**variables, 'params': params, collection: others}

  def apply(variables, batch, *, train=False, rng=None):
    own = {k: v for k, v in variables.items() if k != collection}
    own['params'] = weights(variables['params'], variables[collection])
    taps, stats = base.apply(own, batch, train=train, rng=rng)
    return taps, {**stats, collection: variables[collection]}

  return Model(init, apply, base.members)


def pruned(base: Model, chosen: Callable[..., bool] = prune.kernels) -> Model:
  """The model with masks, bool of the kernels' shapes, all True at the initialisation."""

  def ones(params):
    masks = {k: jnp.ones(v.shape, bool) for k, v in flat(params).items() if chosen(k, v)}
    return params, nested(masks)

  return transformed(base, MASKS, ones, prune.apply)


def shared(base: Model, start: Mapping | None = None) -> Model:
  """The model with codebooks f32 [K] in place of kernels.

  Args:
    base: the model.
    start: its initial variables, of `to_shared`; without them its initialisation shares nothing, the index is
      empty, and the params are those of `base`.
  """
  model = transformed(base, INDEX, lambda params: (params, {}), share.unshare)
  return (
    model if start is None else model._replace(init=lambda rng, batch: jax.tree.map(jnp.asarray, dict(start)))
  )


def to_pruned(variables: Mapping, masks: Mapping) -> dict:
  """Variables of `pruned` from those of its base."""
  return {**variables, MASKS: masks}


def to_shared(variables: Mapping, bits: Any, start: share.Start = 'linear', iterations: int = 100) -> dict:
  """Variables of `shared` from those of its base, by k-means over the weights that are not 0, see `share`."""
  params, index = share.share(variables['params'], bits, start, iterations)
  return {**variables, 'params': params, INDEX: index}


def folded(variables: Mapping) -> dict:
  """Variables of the base from those of `pruned` or `shared`."""
  own = {k: v for k, v in variables.items() if k not in (MASKS, INDEX)}
  if MASKS in variables:
    own['params'] = prune.apply(own['params'], variables[MASKS])
  if INDEX in variables:
    own['params'] = share.unshare(own['params'], variables[INDEX])
  return own
