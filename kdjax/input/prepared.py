"""Prepared folders of TFDS, which may come from anybody: validated before TFDS reads them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.features import feature

from kdjax.errors import KdjaxError
from kdjax.runtime import trust
from kdjax.runtime.files import regular_file

VERSION = re.compile(r'\d+\.\d+\.\d+')
NAME = re.compile(r'[A-Za-z_]\w{0,200}')  # it becomes a part of files' names
LARGEST = 64e6  # bytes of a JSON file
EXAMPLES = 1000  # for each byte of the folder: equal records compress to almost nothing

_cls_from_name = tfds.features.FeatureConnector.cls_from_name.__func__


def _feature_class(cls, name):
  """`cls_from_name` for trusted modules alone; TFDS would import any module."""
  module = str(name).rpartition('.')[0]
  trusted = module.startswith(('tensorflow_datasets.', 'kdjax.')) or module in trust.TRUSTED
  if name not in cls._registered_features and not trusted:
    raise KdjaxError(f'a prepared folder names the feature {name!r}, which is none of TFDS: no code is run.')
  return _cls_from_name(cls, name)


tfds.features.FeatureConnector.cls_from_name = classmethod(_feature_class)  # pyright: ignore[reportAttributeAccessIssue]


class Audio(tfds.features.Tensor):
  """TFDS's feature of audio, for reading prepared data without TensorFlow.

  TFDS resolves it by its alias when it opens a prepared folder.
  """

  ALIASES = ['tensorflow_datasets.core.features.audio_feature.Audio']

  def __init__(self, shape, dtype, encoding, sample_rate):
    super().__init__(shape=shape, dtype=dtype, encoding=encoding)
    self.sample_rate = sample_rate

  @classmethod
  def from_json_content(cls, value: Any):
    if value.lazy_decode:
      raise KdjaxError('TFDS keeps sounds of this data set as files: prepare it without lazy_decode.')
    return cls(
      feature.from_shape_proto(value.shape),
      feature.dtype_from_str(value.dtype),
      value.encoding or 'none',
      value.sample_rate,
    )


def read(folder: Path) -> Any:
  """The builder of a prepared folder.

  Raises:
    KdjaxError: if its description is damaged, names files outside it, or needs code that is not of TFDS.
  """
  try:
    size = sum(
      regular_file(p, 'file of a data set').stat().st_size for p in folder.iterdir() if not p.is_dir()
    )
    _check(folder, size)
    return tfds.builder_from_directory(folder)
  except (KdjaxError, ImportError):
    raise
  except Exception as e:  # TFDS and protobuf raise all sorts
    reason = ' '.join(str(e).split())[:300]
    raise KdjaxError(f'TFDS cannot open the folder {folder} ({type(e).__name__}: {reason}).') from e


def _check(folder, size):
  path = folder / 'dataset_info.json'
  description = json.loads(
    regular_file(path, 'description of a data set', LARGEST).read_text(encoding='utf-8')
  )
  regular_file(folder / 'features.json', 'description of a data set', LARGEST)

  def field(value, *names):  # protobuf takes either spelling
    return next((value[n] for n in names if n in value), None) if isinstance(value, Mapping) else None

  splits = field(description, 'splits') or []
  for kind, pattern, value in (
    ('name', NAME, field(description, 'name')),
    ('version', VERSION, field(description, 'version')),
    *(('split', NAME, field(split, 'name')) for split in splits),
  ):
    if not isinstance(value, str) or not pattern.fullmatch(value):
      raise KdjaxError(f'{path} has the {kind} {str(value)[:200]!r}, which is none.')
  for split in splits:
    template = field(split, 'filepathTemplate', 'filepath_template') or ''
    if not isinstance(template, str) or Path(template).name != template:
      raise KdjaxError(f'{path} names files outside its folder.')
  lengths = [int(n) for s in splits for n in field(s, 'shardLengths', 'shard_lengths') or ()]
  if any(n < 0 for n in lengths) or sum(lengths) > EXAMPLES * size:
    raise KdjaxError(f'{path} says that {sum(lengths):,} examples are in {size:,} bytes.')
