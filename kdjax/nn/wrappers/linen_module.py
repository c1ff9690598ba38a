"""A Linen module of any signature, with the output of each module within it as a tap."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from kdjax.nn.wrappers import call as calls
from kdjax.nn.wrappers.call import Wrapper
from kdjax.nn.wrappers.outputs import taps

CAPTURED = 'intermediates'


class Linen(Wrapper):
  """Calls a Linen module with the arrays that it takes, and returns its outputs as taps.

  A tap is an output of the module by its name, 'logits' for a bare array, or the output of a module within
  it by its path, such as 'encoder/block_3'.
  """

  native = True

  def __init__(self, module: nn.Module, ranges: Mapping[str, str] = {}):
    super().__init__(type(module).__name__, module.__call__, ranges)
    self.module, self.own = module, type(module).__module__.startswith('kdjax.')

  def trace(self, call, shapes):
    taps(jax.eval_shape(lambda arrays: self._init(jax.random.key(0), call, arrays), shapes)[0])

  def _bound(self, train):
    """(the module, the named arguments that say whether it is training)."""
    known = calls.parameters(self.function)
    fields = calls.modes([k for k in calls.MODES if k in vars(self.module) and k not in known], train)
    return self.module.clone(**fields) if fields else self.module, calls.modes(known, train)

  def _init(self, rng, call, arrays):
    module, mode = self._bound(train=False)
    positional, named = call.arguments(arrays, self.ranges)
    return module.init_with_output({'params': rng}, *positional, **named, **mode)

  def init(self, rngs: Mapping[str, Any], arrays: Mapping, train: bool = False) -> dict[str, Any]:
    """The initial variables."""
    return {'params': {}} | dict(self._init(rngs['params'], self.call(arrays), arrays)[1])

  def apply(
    self, variables: Mapping, arrays: Mapping, train: bool = False, rngs: Mapping = {}, mutable: Any = None
  ) -> Any:
    """The taps; with `mutable`, a list of collections, (the taps, these updated)."""
    module, mode = self._bound(train)
    positional, named = self.call(arrays).arguments(arrays, self.ranges)
    if 'dropout' in rngs:  # other streams, of names that kdjax does not know, are derived from 'params'
      rngs = {**rngs, 'params': jax.random.fold_in(rngs['dropout'], 1)}
    outputs, updated = module.apply(
      variables,
      *positional,
      **named,
      **mode,
      rngs=dict(rngs) or None,
      capture_intermediates=True,
      mutable=[*(mutable or ()), CAPTURED],
    )
    updated = dict(updated)
    captured = _by_path(updated.pop(CAPTURED, {}))
    # The taps of kdjax's own models are named already, and may be trees, such as a cache.
    named_taps = {**taps(outputs, captured), **outputs} if self.own else taps(outputs, captured)
    return named_taps if mutable is None else (named_taps, updated)


def _by_path(intermediates) -> dict[str, Any]:
  """Module path -> output; of a module that is called more than once 'path', 'path:1', …"""
  by_path = {}
  for path, values in flatten_dict(intermediates).items():
    *parents, last = map(str, path)
    name = '/'.join(parents if last == '__call__' else path)
    if name:
      for i, value in enumerate(values if isinstance(values, tuple) else (values,)):
        by_path[f'{name}:{i}' if i else name] = value
  return by_path
