"""A function of a batch as a model that is not trained."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.nn.wrappers import call as calls
from kdjax.nn.wrappers.call import Wrapper
from kdjax.nn.wrappers.outputs import taps


class Function(Wrapper):
  """Calls a function of arrays that JAX can trace, and returns its outputs as taps."""

  def __init__(self, function: Callable, ranges: Mapping[str, str] = {}):
    super().__init__(getattr(function, '__name__', type(function).__name__), function, ranges)

  def trace(self, call, shapes):
    jax.eval_shape(lambda arrays: self._run(call, arrays, False), shapes)

  def _run(self, call, arrays, train):
    positional, named = call.arguments(arrays, self.ranges)
    mode = calls.modes(calls.parameters(self.function), train)
    return taps(self.function(*positional, **named, **mode))

  def init(self, rngs: Mapping[str, Any], arrays: Mapping, train: bool = False) -> dict[str, Any]:
    """No weights; one zero stands for them, whose first axis counts the seeds."""
    self.call(arrays)
    return {'params': {}, 'frozen': {'none': jnp.zeros(1)}}

  def apply(
    self, variables: Mapping, arrays: Mapping, train: bool = False, rngs: Mapping = {}, mutable: Any = None
  ) -> Any:
    """The taps; with `mutable` (the taps, {})."""
    named_taps = self._run(self.call(arrays), arrays, train)
    return named_taps if mutable is None else (named_taps, {})
