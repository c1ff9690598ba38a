"""Models written for anything but kdjax, as they are: Linen and NNX modules of any signature, functions."""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from kdjax.errors import KdjaxError
from kdjax.nn.wrappers.function import Function
from kdjax.nn.wrappers.linen_module import Linen

__all__ = ['Function', 'Linen', 'is_own', 'wrap']


def is_own(net: Any) -> bool:
  """Whether it is a module of kdjax, which takes a dict and returns taps."""
  return isinstance(net, nn.Module) and type(net).__module__.startswith('kdjax.')


def wrap(net: Any, ranges: Mapping[str, str] = {}, capture: bool = False) -> Any:
  """`net` with `init(rngs, arrays, train)` and `apply(variables, arrays, train, rngs, mutable)`, to taps.

  Args:
    net: a Linen module, an NNX module, a function that makes one of `rngs`, or a function of arrays.
    ranges: key -> the range of the data's floats, see `call.as_given`.
    capture: whether the modules within one of kdjax's own give taps too, as those of others do.

  Raises:
    KdjaxError: for anything else.
  """
  if is_own(net) and not capture:
    return net
  if isinstance(net, nn.Module):
    return Linen(net, ranges)
  if isinstance(net, type) and issubclass(net, nn.Module):
    raise KdjaxError(f'{net.__name__} is a class: give an instance, {net.__name__}(...).')
  from kdjax.nn.wrappers import nnx_module  # a second with what NNX imports

  if nnx_module.is_nnx(net):
    return nnx_module.Nnx(net, ranges)
  if any(kind.__module__.startswith('torch.nn') for kind in inspect.getmro(type(net))):
    raise KdjaxError(
      f'{type(net).__name__} is a torch module, which JAX cannot run: give the file of its weights to '
      'kdjax.load, or its outputs as an array.'
    )
  if callable(net):
    return Function(net, ranges)
  raise KdjaxError(
    f'a {type(net).__name__} is no model: give a Linen or NNX module, a function of a batch, or a dict with '
    "'model'."
  )
