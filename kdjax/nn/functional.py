"""A Linen module as pure functions of its variables, with those that are not trained apart."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from kdjax.errors import KdjaxError, unknown
from kdjax.input import views as views_
from kdjax.nn import missing_modality
from kdjax.nn.layers import COMPUTED, mapped, narrowed, scale_image
from kdjax.types import Model


def functions(
  net: Any,
  inputs: Mapping[str, str],
  dtype: str = 'float32',
  drop: Mapping[str, float] | None = None,
  frozen: tuple[tuple[str, ...], ...] = (),
) -> Model:
  """A Linen module as two pure functions.

  Args:
    net: maps (inputs, train) to taps.
    inputs: model input -> batch key, with all that is below it ('/mask', '/present'); empty
      for the batch as it is.
    dtype: of the computation; the weights stay in float32.
    drop: input -> how often an example lacks it in training, see `missing_modality.drop_modalities`.
    frozen: paths of the weights that are in the collection 'frozen', see `split`.

  Raises:
    KdjaxError: for another dtype, and for inputs that the batch does not have.
  """
  if dtype not in ('float32', 'bfloat16'):  # float16 would need its loss scaled
    raise unknown('dtype', dtype, ('float32', 'bfloat16'))

  def see(batch):
    seen = mapped(batch, inputs)
    if dtype != 'float32' and 'image' in seen:  # bytes would be scaled to float32
      seen['image'] = scale_image(seen['image'])
    sound = {k: seen[k] for k in ('audio',) if k in seen and dtype != 'float32'}
    return narrowed(seen, dtype) | sound | {f'{k}{COMPUTED}': jnp.zeros(1, dtype) for k in sound}

  def init(rng, batch):
    return split(net.init({'params': rng}, see(batch), train=False), frozen)

  def apply(variables, batch, *, train=False, rng=None):
    kept = {k: v for k, v in variables.items() if k != 'params'}
    merged = merge(variables)
    stats = {k: v for k, v in merged.items() if k != 'params'}
    ready = {'params': narrowed(merged['params'], dtype), **stats}
    rngs = {'dropout': rng} if rng is not None else {}
    seen = see(batch)
    if train and drop:
      for name in set(drop) - set(seen):
        raise KdjaxError(f'drop names {name!r}, and the inputs are {", ".join(sorted(seen))}.')
      hidden = not getattr(net, 'IGNORES_ABSENT', False)
      seen = missing_modality.drop_modalities(jax.random.fold_in(rng, 1), seen, drop, hidden)
    if not train:
      return dict(net.apply(ready, seen, train=False)), kept
    outputs, updated = net.apply(ready, seen, train=True, rngs=rngs, mutable=list(stats))
    return dict(outputs), kept | dict(updated)

  members = tuple(sorted(net.members)) if getattr(net, 'WHOLE', False) else ()
  return views_.in_views(Model(init, apply, members))


HEAD = 'head'  # the classifier of every model: its classes are those of the data


def split(variables: Mapping, paths: tuple[tuple[str, ...], ...]) -> dict:
  """Variables with the weights under `paths` in a collection of their own, 'frozen', heads excepted."""
  if not paths:
    return dict(variables)
  kept, still = {}, {}
  for key, x in flatten_dict(variables['params']).items():
    under = any(key[: len(p)] == p and key[len(p)] != HEAD for p in paths)
    (still if under else kept)[key] = x
  return {**variables, 'params': unflatten_dict(kept), 'frozen': unflatten_dict(still)}


def merge(variables: Mapping) -> dict:
  """The inverse of `split`; no gradient reaches what was frozen."""
  if 'frozen' not in variables:
    return dict(variables)
  still = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if hasattr(x, 'at') else x, variables['frozen'])
  params = flatten_dict(variables['params']) | flatten_dict(still)
  rest = {k: v for k, v in variables.items() if k != 'frozen'}
  return rest | {'params': unflatten_dict(params)}
