"""What of an example the card of a report shows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.types import NO_INPUT


def kind(key: str, value: Any) -> str:
  """'text', 'image', 'video', 'sound' or 'sequence', as an input is shown; '' for not at all."""
  if key in NO_INPUT or '/' in key:
    return ''
  if isinstance(value, str):
    return 'text' if key == 'text' else ''
  array = np.asarray(value)
  if array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-1] in (1, 3, 4):
    return 'image' if array.ndim == 3 else 'video'
  if key == 'image' and array.dtype == np.uint8 and array.ndim == 2:
    return 'image'
  if key == 'audio' and array.ndim == 1 and array.dtype.kind in 'fi':
    return 'sound'
  if array.dtype.kind != 'f':
    return ''
  return 'sequence' if array.ndim == 2 and min(array.shape) > 1 else ''


def inputs(example: Mapping[str, Any], row: int) -> dict[str, Any]:
  """The inputs of an example that are shown; without any, a text that says which example it is."""
  return {k: v for k, v in example.items() if kind(k, v)} or {'text': f'example {row}'}
