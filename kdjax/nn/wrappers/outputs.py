"""What a model returns as taps: a flat dict of named arrays."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError


def taps(outputs: Any, captured: Mapping[str, Any] | None = None) -> dict[str, jax.Array]:
  """The arrays of a model's outputs by name.

  Args:
    outputs: an array, the 'logits'; a tuple or list, whose first array is the 'logits' and the others
      'output1', 'output2', …; a dict, a dataclass or a NamedTuple, whose fields are the names, nested ones
      joined by '/'. What is no array is left out.
    captured: module path -> output of that module; an output of the model with the same name goes before it.

  Raises:
    KdjaxError: if there is no array.
  """
  named = dict(_named(outputs, ''))
  if not named:
    raise KdjaxError(f'the model returns {type(outputs).__name__}, and no array.')
  inner = {}
  for path, value in (captured or {}).items():
    inner |= {k.removesuffix('/logits'): x for k, x in _named(value, path)}
  return inner | named


def _named(value, path):
  """(name, array) of what a model returns."""
  fields = _fields(value)
  if hasattr(value, 'dtype') and hasattr(value, 'shape'):
    if _is_numeric(value):
      yield path if path and not path.endswith('/') else f'{path}logits', value
  elif fields is not None:
    for key, inner in fields.items():
      yield from _named(inner, f'{path}/{key}'.lstrip('/'))
  elif isinstance(value, (tuple, list)):
    for i, inner in enumerate(value):
      name = (f'{path}/{i}' if path else 'logits' if not i else f'output{i}') if _is_leaf(inner) else path
      yield from _named(inner, name)


def _is_leaf(value):
  return _fields(value) is None


def _is_numeric(array):
  return jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool


def _fields(value) -> Mapping[str, Any] | None:
  """The named parts of a value, None where it has none."""
  if isinstance(value, Mapping):
    return {str(k): v for k, v in value.items()}
  if isinstance(value, tuple) and hasattr(value, '_fields'):
    return dict(zip(getattr(value, '_fields'), value, strict=True))  # noqa: B009, of a NamedTuple
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
  return None
