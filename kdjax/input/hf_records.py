"""Data sets of Hugging Face's library as examples: features as kdjax reads them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import images

FILES = ('Image', 'Audio')  # features that are kept as encoded bytes, and decoded by kdjax's rules
KEYS = {'Image': 'image', 'Audio': 'audio', 'ClassLabel': 'label'}


def is_dataset(part: Any) -> bool:
  """Whether it is a Dataset of that library, which need not be installed."""
  return type(part).__module__.partition('.')[0] == 'datasets' and hasattr(part, 'cast_column')


class Records(Sequence):
  """The rows of a Dataset: images decoded, sounds as {'bytes', 'path'}, lists of classes as 0 and 1.

  Attributes:
    classes: column -> the names of its classes, in order.
    suggested: key of a batch -> column, the first of each kind, as for TFDS; the one column of texts.
    rate: samples a second of the sounds, where the feature says so.
  """

  def __init__(self, dataset: Any):
    self.classes: dict[str, tuple[str, ...]] = {}
    self.suggested: dict[str, str] = {}
    self.rate, self._images, self._several, texts = 0, [], [], []
    for name, feature in dataset.features.items():
      kind, inner = type(feature).__name__, getattr(feature, 'feature', None)
      if kind in FILES:
        dataset = dataset.cast_column(name, type(feature)(decode=False))
        self._images += [name] if kind == 'Image' else []
        self.rate = self.rate or getattr(feature, 'sampling_rate', 0) or 0
      elif kind == 'ClassLabel' or type(inner).__name__ == 'ClassLabel':
        self.classes[name] = tuple((feature if inner is None else inner).names)
        self._several += [name] if inner is not None else []
      elif kind == 'Value' and feature.dtype in ('string', 'large_string'):
        texts.append(name)
      key = KEYS.get('ClassLabel' if name in self.classes else kind)
      if key:
        self.suggested.setdefault(key, name)
    if len(texts) == 1:
      self.suggested['text'] = texts[0]
    self.dataset = dataset.with_format(None)

  @property
  def column_names(self) -> list[str]:
    return list(self.dataset.column_names)

  def column(self, name: str) -> list:
    """All values of a column, without the others."""
    part = self.dataset.select_columns([name])
    return [self._value(name, row[name], i) for i, row in enumerate(part)]

  def __len__(self) -> int:
    return len(self.dataset)

  def __getitem__(self, index):
    index = range(len(self))[int(index)]
    return {k: self._value(k, v, index) for k, v in self.dataset[index].items()}

  def _value(self, name, value, index):
    where = f'row {index}, column {name!r}'
    if name in self._images:
      if not isinstance(value, Mapping) or not (value.get('bytes') or value.get('path')):
        raise KdjaxError(f'{where} has no image.')
      return _image(value, where)
    if name in self._several:
      held = np.zeros(len(self.classes[name]), np.int32)
      held[np.asarray(value, int)] = 1
      return held
    return '' if value is None and name in self.suggested.values() else value


def _image(value, where):
  content = value.get('bytes')
  return (
    images.read_image(Path(value['path']), where) if content is None else images.decode_image(content, where)
  )
