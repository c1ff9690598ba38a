"""What the columns of somebody's data hold: by name, else by type and shape where these leave no doubt."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError

NAMES = {
  'image': ('image', 'images', 'img', 'imgs', 'picture', 'pixels'),
  'text': ('text', 'texts', 'sentence', 'sentences', 'caption', 'captions'),
  'audio': ('audio', 'sound', 'sounds', 'speech', 'waveform'),
  'video': ('video', 'videos'),
  'label': ('label', 'labels', 'y', 'target', 'targets', 'class'),
  'id': ('id', 'ids'),
}
KEYS = {name: key for key, names in NAMES.items() for name in names}
PLAIN = ('response', 'group', 'language', 'words')  # keys of a batch that are what they are called
INPUT = ('x', 'input', 'inputs', 'data')  # names that say nothing
DICT = "{'image': x, 'label': y}, or with 'text', 'audio' (samples from -1 to 1) or 'video' for 'image'"


def kind(value: Any) -> str:
  """'text', 'image' or 'video' of one example's value, '' where it may be several things."""
  if isinstance(value, str | bytes | np.str_ | np.bytes_):
    return 'text'
  array = np.asarray(value)
  if array.dtype.kind in 'biuf' and array.ndim in (2, 3):
    return 'image'
  return 'video' if array.ndim == 4 and array.dtype.kind in 'biuf' else ''


def shown(value: Any) -> str:
  """Type and shape of one example's value."""
  array = np.asarray(value)
  return 'text' if isinstance(value, str | bytes) else f'{array.dtype} {list(array.shape)}'


def keys(example: Mapping[str, Any], given: Mapping[str, str], where: str) -> dict[str, str]:
  """Key of the batch -> name in the data.

  Args:
    example: the first, name -> value.
    given: key -> name, which decides where it names one: `data.columns`.
    where: of the data, for a message.

  Raises:
    KdjaxError: where two names may be one key, or what one holds cannot be told.
  """
  for key, name in given.items():
    if name not in example:
      listed = ', '.join(map(repr, example))
      raise KdjaxError(f'{where} has {listed}, and no {name!r}, which data.columns.{key} names.')
  keys = dict(given)
  rest = [name for name in example if name not in given.values()]
  for name in list(rest):
    key = KEYS.get(name.lower()) or (name if name in PLAIN or '/' in name else '')
    if key and key not in given:
      if key in keys:
        raise KdjaxError(
          f'{where} has {keys[key]!r} and {name!r}, either of which may be the {key}: set '
          f'data.columns.{key} to one.'
        )
      keys[key] = name
      rest.remove(name)
  modalities = keys.keys() & {'image', 'text', 'audio', 'video', 'words'}
  for name in rest:
    if name.lower() in INPUT or (not modalities and len(rest) == 1):
      key = kind(example[name])
      if not key or key in keys:
        raise KdjaxError(
          f'{where}: {name!r} is {shown(example[name])} an example, which may be several '
          f'things: name it, {DICT}.'
        )
      keys[key] = name
  if not keys.keys() - {'label', 'id'}:
    kinds = ', '.join(f'{n!r} ({shown(v)})' for n, v in list(example.items())[:8])
    raise KdjaxError(
      f'{where} has {kinds or "nothing"}, and no image, text, audio or video: name it, {DICT}.'
    )
  return keys


def said(keys: Mapping[str, str], example: Mapping[str, Any], left: Iterable[str]) -> str:
  """What was taken for what, as part of a line."""
  parts = [
    f'{key}: {"" if key == name else f"{name!r}, "}{shown(example[name])}' for key, name in keys.items()
  ]
  left = list(left)
  return '; '.join(parts) + (f'; left out: {", ".join(left[:8])}' if left else '')
