"""A module as pure functions of its variables, the frozen ones in a collection of their own."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from kdjax.errors import KdjaxError, unknown
from kdjax.input import views as views_
from kdjax.nn import missing_modality
from kdjax.nn.layers import COMPUTED, mapped, narrowed, scale_image
from kdjax.nn.taps import WEIGHTS
from kdjax.nn.wrappers import wrap
from kdjax.types import Model


def functions(
  net: Any,
  inputs: Mapping[str, str],
  dtype: str = 'float32',
  drop: Mapping[str, float] | None = None,
  frozen: tuple[tuple[str, ...], ...] = (),
  ranges: Mapping[str, str] = {},
  capture: bool = False,
) -> Model:
  """A module as two pure functions.

  Args:
    net: a module of kdjax, which maps (inputs, train) to taps, or anything that `wrappers.wrap` takes.
    inputs: model input -> batch key, along with its '/mask' and '/present'; empty for the batch as it is.
    dtype: of the computation; the weights stay in float32.
    drop: input -> how often an example lacks it in training, see `missing_modality.drop_modalities`; which
      do is in the taps '<input>/present' [B] then.
    frozen: paths of the weights that are in the collection 'frozen', see `split`.
    ranges: key -> range of the data's floats, for a module from elsewhere, see `wrappers.call.as_given`.
    capture: whether the modules within `net` give taps by their paths, see `wrappers.wrap`, and their weights
      too, see `weights`.

  Raises:
    KdjaxError: for another dtype, and for inputs that are not in the batch.
  """
  if dtype not in ('float32', 'bfloat16'):  # float16 would need its loss scaled
    raise unknown('dtype', dtype, ('float32', 'bfloat16'))
  module, net = net, wrap(net, ranges, capture)

  def net_inputs(batch):
    arrays = mapped(batch, inputs)
    if dtype != 'float32' and 'image' in arrays:  # bytes would be scaled to float32
      arrays['image'] = scale_image(arrays['image'])
    audio = {k: arrays[k] for k in ('audio',) if k in arrays and dtype != 'float32'}
    return narrowed(arrays, dtype) | audio | {f'{k}{COMPUTED}': jnp.zeros(1, dtype) for k in audio}

  def init(rng, batch):
    return split(net.init({'params': rng}, net_inputs(batch), train=False), frozen)

  def apply(variables, batch, *, train=False, rng=None):
    collections = {k: v for k, v in variables.items() if k != 'params'}
    merged = merge(variables)
    stats = {k: v for k, v in merged.items() if k != 'params'}
    cast = {'params': narrowed(merged['params'], dtype), **stats}
    rngs = {'dropout': rng} if rng is not None else {}
    arrays = net_inputs(batch)
    if train and drop:
      assert rng is not None  # which modalities an example lacks is drawn
      for name in set(drop) - set(arrays):
        raise KdjaxError(f'drop names {name!r}, and the inputs are {", ".join(sorted(arrays))}.')
      hidden = not getattr(module, 'IGNORES_ABSENT', False)
      arrays = missing_modality.drop_modalities(jax.random.fold_in(rng, 1), arrays, drop, hidden)
    inner = weights(cast['params']) if capture else {}
    if not train:
      return {**inner, **net.apply(cast, arrays, train=False)}, collections
    outputs, updated = net.apply(cast, arrays, train=True, rngs=rngs, mutable=list(stats))
    return {**inner, **outputs, **presence(arrays, drop or {})}, collections | dict(updated)

  members = tuple(sorted(module.members)) if getattr(module, 'WHOLE', False) else ()
  return views_.in_views(Model(init, apply, members))


def presence(arrays: Mapping, names: Iterable[str]) -> dict:
  """'<modality>/present' [B] of the inputs, for methods: which of them an example lacks was drawn."""
  return {key: arrays[key] for name in names if (key := f'{name}/present') in arrays}


def weights(params: Mapping) -> dict:
  """The weights of a model as taps: 'weights/head/linear/kernel' [1, D, C] of its classifier.

  A first axis of 1 is no batch's, so that nothing splits them by examples.
  """
  flat: dict[tuple, Any] = flatten_dict(params)
  return {f'{WEIGHTS}{"/".join(path)}': x[None] for path, x in flat.items()}


HEAD = 'head'  # the classifier of every model, never frozen: its classes are those of the data


def split(variables: Mapping, paths: tuple[tuple[str, ...], ...]) -> dict:
  """Variables with the weights under `paths` in a collection of their own, 'frozen', heads excepted."""
  if not paths:
    return dict(variables)
  trained, frozen = {}, {}
  for key, x in flatten_dict(variables['params']).items():
    under = any(key[: len(p)] == p and key[len(p)] != HEAD for p in paths)
    (frozen if under else trained)[key] = x
  return {**variables, 'params': unflatten_dict(trained), 'frozen': unflatten_dict(frozen)}


def merge(variables: Mapping) -> dict:
  """The inverse of `split`; no gradient reaches what was frozen."""
  if 'frozen' not in variables:
    return dict(variables)
  frozen = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if hasattr(x, 'at') else x, variables['frozen'])
  params = flatten_dict(variables['params']) | flatten_dict(frozen)
  others = {k: v for k, v in variables.items() if k != 'frozen'}
  return others | {'params': unflatten_dict(params)}
