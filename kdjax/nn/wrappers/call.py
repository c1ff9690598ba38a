"""How to call a model that was written elsewhere: which arrays of a batch its parameters take."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.layers import scale_image
from kdjax.types import NO_INPUT, readable

# Parameter -> whether it is set in training, or in evaluation.
MODES = {'train': True, 'training': True, 'is_training': True, 'is_train': True}
MODES |= {'deterministic': False, 'eval': False, 'inference': False, 'use_running_average': False}
RNGS = ('rng', 'rngs', 'key')
DICTS = ('inputs', 'batch', 'batches', 'features', 'example', 'examples', 'data')  # usual names for a dict
ALIASES = {
  'image': ('images', 'pixel_values', 'pixels', 'img', 'imgs'),
  'text': ('texts', 'input_ids', 'tokens', 'token_ids', 'ids'),
  'audio': ('audios', 'input_values', 'waveform', 'wave', 'sound'),
  'video': ('videos', 'frames', 'pixel_values_videos'),
  'text/mask': ('attention_mask', 'text_mask', 'padding_mask', 'mask'),
  'audio/mask': ('audio_mask', 'mask'),
}


class Call(NamedTuple):
  """One way to call a model: positional arrays and named ones.

  Attributes:
    positional: the key of the only argument, '' for a dict of all inputs; None without one.
    named: parameter -> key.
    raw: whether images are given as kdjax's own models take them, bytes or floats from -1 to 1.
  """

  positional: str | None
  named: Mapping[str, str]
  raw: bool = False

  def arguments(self, arrays: Mapping, ranges: Mapping[str, str]) -> tuple[tuple, dict]:
    """(positional arguments, named arguments) of the inputs of a model."""
    if not self.raw:
      arrays = {k: as_given(v, ranges.get(k, '')) if k == 'image' else v for k, v in arrays.items()}
    named = {name: arrays[key] for name, key in self.named.items()}
    if self.positional is None:
      return (), named
    whole = dict(arrays) if self.raw else {k: v for k, v in arrays.items() if k not in NO_INPUT}
    return (arrays[self.positional] if self.positional else whole,), named

  def describe(self, name: str) -> str:
    """The call in words."""
    given = [] if self.positional is None else [self.positional or 'a dict of the inputs']
    return f'{name}({", ".join([*given, *(f"{k}={v}" for k, v in self.named.items())])})'


def as_given(image: jax.Array, scale: str) -> jax.Array:
  """An image as the user's data have it: bytes as f32 in [0, 1], floats in their own range.

  Args:
    scale: the range of the data's floats, one of `images.RANGES`; kdjax holds them in [-1, 1].
  """
  if image.dtype == jnp.uint8:
    return scale_image(image) / 2 + 0.5
  high = {'0 to 1': 1, '0 to 255': 255}.get(scale)
  return image if high is None else (image + 1) * (high / 2)


def modes(names: Any, train: bool) -> dict[str, Any]:
  """The parameters of `names` that say whether it is training, with their values."""
  return {name: train == training for name, training in MODES.items() if name in names}


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
  """The parameters of a callable; {} where Python cannot tell."""
  try:
    return dict(inspect.signature(function).parameters)
  except (TypeError, ValueError):
    return {}


def candidates(function: Callable, arrays: Mapping, native: bool = False) -> Iterator[Call]:
  """The ways in which a model may be called for these inputs, the likeliest first.

  Args:
    function: whose parameters count, without 'self'.
    arrays: the inputs.
    native: whether a dict with images as kdjax's own models take them is tried too, and first.
  """
  known = {k: p for k, p in parameters(function).items() if k not in MODES and k not in RNGS}
  usual = {k: p for k, p in known.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
  required = [k for k, p in usual.items() if p.default is p.empty]
  keys = readable(arrays)
  named = {name: key for name in usual if (key := _key(name, arrays, keys))}
  optional = {k: v for k, v in named.items() if k not in required}
  if len(required) > 1 or (not required and named):
    if all(name in named for name in required):
      yield Call(None, named)
    return
  first = required[0] if required else ''
  if first and usual[first].kind is inspect.Parameter.KEYWORD_ONLY:
    if first in named:
      yield Call(None, named)
    return
  one = [named[first]] if first in named else keys if len(keys) == 1 else []
  calls = [Call(key, optional) for key in one] + [Call('', optional)]
  if native and first in DICTS:
    yield Call('', {}, raw=True)
  yield from calls[::-1] if first in DICTS else calls


def _key(name, arrays, keys):
  """The key of a batch that a parameter is named after; '' for none."""
  if name in keys:
    return name
  fitting = [key for key, names in ALIASES.items() if name in names and key in arrays]
  return fitting[0] if len(fitting) == 1 else ''


def resolve(
  name: str, function: Callable, arrays: Mapping, attempt: Callable[[Call], Any], native: bool = False
) -> Call:
  """The first of the `candidates` that `attempt`, a trace of the model, accepts.

  Args:
    name: of the model, for the message.
    function: as in `candidates`.
    arrays: the inputs.
    attempt: raises an exception for a call that the model refuses.
    native: as in `candidates`.

  Raises:
    KdjaxError: if there is none; it says how each was refused.
  """
  refused, outside = [], False
  for call in candidates(function, arrays, native):
    try:
      attempt(call)
    except Exception as e:  # whatever a user's model raises
      outside = outside or isinstance(e, jax.errors.JAXTypeError)
      refused.append(f'{call.describe(name)} raises {type(e).__name__}: {" ".join(str(e).split())[:240]}')
    else:
      return call
  if outside:
    refused[-1] += '; it computes outside JAX: as a teacher, give kdjax.host(function)'
  has = ', '.join(f'{k} {v.dtype} {list(v.shape)}' for k, v in arrays.items() if k not in NO_INPUT)
  takes = ', '.join(parameters(function)) or 'nothing'
  tried = '; '.join(refused) or f'its parameters are {takes}, and none is named after a key of the data'
  raise KdjaxError(
    f'the model {name} cannot be called with the data, {has}: {tried}. Name its inputs with '
    f"inputs={{'parameter': 'key'}}."
  )


class Wrapper:
  """A model that was written elsewhere, and the way to call it, found by tracing it once for each shape.

  Attributes:
    name: of the model, for messages.
    ranges: key -> the range of the data's floats, see `as_given`.
  """

  native = False  # see `candidates`

  def __init__(self, name: str, function: Callable, ranges: Mapping[str, str]):
    self.name, self.function, self.ranges = name, function, dict(ranges)
    self.calls: dict[tuple, Call] = {}

  def trace(self, call: Call, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Traces the model with a call; raises whatever the model raises."""
    raise NotImplementedError

  def call(self, arrays: Mapping) -> Call:
    """The way to call the model for these inputs.

    Raises:
      KdjaxError: as `resolve` does.
    """
    key = tuple(sorted((k, v.shape, str(v.dtype)) for k, v in arrays.items()))
    if key not in self.calls:
      shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in arrays.items()}
      attempt = functools.partial(self.trace, shapes=shapes)
      self.calls[key] = resolve(self.name, self.function, arrays, attempt, self.native)
    return self.calls[key]
