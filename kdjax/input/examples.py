"""What somebody has with random access, as a sequence of dicts: arrays, lists, data sets of torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import guess
from kdjax.input.hf_records import Records, is_dataset
from kdjax.runtime.progress import track


class Columns(Sequence):
  """Examples of arrays of one length, name -> array."""

  def __init__(self, columns: Mapping[str, Any]):
    self.columns = dict(columns)

  def __len__(self) -> int:
    return len(next(iter(self.columns.values())))

  def __getitem__(self, index):
    return {name: column[index] for name, column in self.columns.items()}


class Converted(Sequence):
  """Examples of `source` as those of a batch: `convert(example)`."""

  def __init__(self, source: Any, convert: Callable):
    self.source, self.convert = source, convert

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index):
    return self.convert(self.source[range(len(self.source))[int(index)]])


def examples(part: Any, where: str) -> Any:
  """A split as a sequence of dicts.

  Raises:
    KdjaxError: for what has no random access, or arrays of different lengths.
  """
  if isinstance(part, tuple) and len(part) == 2 and not isinstance(part[0], Mapping | tuple):
    part = {'x': part[0], 'label': part[1]}
  elif (
    isinstance(part, tuple) and len(part) == 2 and _is_columns(part[0]) and not isinstance(part[1], Mapping)
  ):
    part = {**dict(part[0]), 'label': part[1]}
  if isinstance(part, Mapping):
    lengths = {k: len(v) for k, v in part.items() if hasattr(v, '__len__') and not isinstance(v, str)}
    if not part or len(lengths) < len(part) or len(set(lengths.values())) > 1:
      shown = ', '.join(f'{k!r} {lengths.get(k, type(v).__name__)}' for k, v in part.items())
      raise KdjaxError(f'{where}: the arrays have different lengths, or none: {shown or "there are none"}.')
    part = Columns({k: v if isinstance(v, list | tuple) else np.asarray(v) for k, v in part.items()})
  if is_dataset(part):
    part = Records(part)
  if isinstance(part, str | bytes) or not hasattr(part, '__len__') or not hasattr(part, '__getitem__'):
    raise KdjaxError(
      f'{where} is a {type(part).__name__}, which has no examples by number: give a dict of arrays, a tuple '
      '(x, y), or a data set with len() and [i]; of a stream make list(stream).'
    )
  if not len(part):
    raise KdjaxError(f'{where} is empty.')
  first = part[0]
  if isinstance(first, Mapping):
    return part
  if isinstance(first, tuple | list) and len(first) == 2:
    return Converted(part, lambda pair: {'x': plain(pair[0]), 'label': plain(pair[1])})
  raise KdjaxError(
    f'{where}: an example is a {type(first).__name__}; it has to be a dict, such as '
    f'{guess.DICT}, or a tuple (x, y).'
  )


def _is_columns(value):
  return isinstance(value, Mapping) and all(
    hasattr(v, '__len__') and not isinstance(v, str) for v in value.values()
  )


def plain(value: Any) -> Any:
  """A value of torch, Pillow, JAX or TFDS as text, number or NumPy array; a dict, of a sound, as it is."""
  if isinstance(value, Mapping):
    return value
  if isinstance(value, bytes):
    return value.decode('utf-8', 'replace')
  if isinstance(value, str | int | float):
    return str(value) if isinstance(value, np.str_) else value
  if hasattr(value, 'convert') and hasattr(value, 'mode'):  # of Pillow
    value = value if value.mode in ('L', 'RGB') else value.convert('RGB')
  array = np.asarray(value)
  return str(array) if array.dtype.kind == 'U' and not array.ndim else array


def column(source: Any, name: str) -> Iterable:
  """The values of one name, without the others where these are arrays."""
  if isinstance(source, Columns):
    return source.columns[name]
  if isinstance(source, Records):
    return source.column(name)

  def values():
    for i in range(len(source)):
      example = source[i]
      if name not in example:
        raise KdjaxError(f'an example has {", ".join(example)}, and no {name!r}, which others have.')
      yield example[name]

  return track(values(), 'reading labels', len(source))
