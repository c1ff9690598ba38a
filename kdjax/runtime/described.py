"""Shapes and dtypes of arrays in a JSON file, validated."""

from typing import Any

import jax.numpy as jnp

from kdjax.errors import KdjaxError

TYPES = ('bool', 'bfloat16', 'float16', 'float32', 'float64')
TYPES += tuple(f'{sign}int{bits}' for sign in ('', 'u') for bits in (8, 16, 32, 64))
AXES, LARGEST = 8, 4_000_000_000  # bytes


def described(value: Any, where: Any) -> tuple[tuple[int, ...], str]:
  """The shape and the type of `[shape, type]`, as `jnp.dtype` takes it.

  Raises:
    KdjaxError: if they describe no array of numbers, or one of more than 4 GB; it names `where`.
  """
  shape, dtype = value if isinstance(value, list | tuple) and len(value) == 2 else ((), '')
  valid = isinstance(dtype, str) and dtype in TYPES
  valid = valid and isinstance(shape, list | tuple) and len(shape) <= AXES
  valid = valid and all(type(n) is int and 0 <= n <= LARGEST for n in shape)
  size = jnp.dtype(dtype).itemsize if valid else 0
  for n in shape if valid else ():
    size *= n
  if not valid or size > LARGEST:
    raise KdjaxError(f'{where} describes an array that is none, or larger than 4 GB: write it anew.')
  return tuple(shape), dtype
