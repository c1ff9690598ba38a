"""A hash of a model that a program gives: the same in every process that gives the same."""

import functools
import types
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import nnx

from kdjax.runtime.array_hash import hash_arrays
from kdjax.runtime.files import fingerprint

DEEP = 6  # levels of values within each other


def identity(value: Any) -> str:
  """8 digits of all that decides what a model computes, as far as Python shows it.

  Of a Linen module its attributes; of an NNX module the shapes of its state; of a function its code, defaults
  and what it closes over; of a Keras model its weights; of anything else its type.
  """
  return fingerprint(*_marks(value, DEEP))[:8]


def _marks(value, depth) -> list[str]:
  """Texts that differ where two values differ."""
  kind = f'{type(value).__module__}.{type(value).__qualname__}'
  if depth <= 0:
    return [kind]
  if isinstance(value, nn.Module):
    return [kind, repr(value)]
  if isinstance(value, nnx.Module):
    shapes = {
      k: x.get_value() for k, x in nnx.to_flat_state(nnx.state(value)) if not isinstance(x, nnx.RngState)
    }
    return [kind, *(f'{k} {np.shape(x)}' for k, x in shapes.items())]
  if isinstance(value, functools.partial):
    return [kind, *_marks(value.func, depth - 1), *_marks([value.args, value.keywords], depth - 1)]
  if isinstance(value, types.FunctionType):
    code, cells = value.__code__, [c.cell_contents for c in value.__closure__ or ()]
    return [kind, value.__qualname__, *_code(code), *_marks([cells, value.__defaults__ or ()], depth - 1)]
  if isinstance(value, types.MethodType):
    return [kind, *_marks(value.__func__, depth - 1), *_marks(value.__self__, depth - 1)]
  if isinstance(value, type):
    return [f'{value.__module__}.{value.__qualname__}']
  if isinstance(value, np.ndarray | jax.Array):
    return [kind, hash_arrays(value)]
  if isinstance(value, Mapping):
    return [kind, *(m for k, v in value.items() for m in [str(k), *_marks(v, depth - 1)])]
  if isinstance(value, list | tuple):
    return [kind, *(m for v in value for m in _marks(v, depth - 1))]
  if isinstance(value, str | bytes | int | float | bool | type(None)):
    return [kind, repr(value)]
  if hasattr(value, 'get_weights'):  # of Keras
    return [kind, hash_arrays([np.asarray(w) for w in value.get_weights()])]
  wrapped = getattr(value, '__wrapped__', None)  # of jax.jit
  return [kind, *(_marks(wrapped, depth - 1) if wrapped is not None else ())]


def _code(code) -> list[str]:
  """The instructions and constants of a function, and of those within it."""
  inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
  plain = [repr(c) for c in code.co_consts if not isinstance(c, types.CodeType)]
  return [code.co_code.hex(), *map(str, code.co_names), *plain, *(m for c in inner for m in _code(c))]
