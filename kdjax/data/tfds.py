"""Any data set of TensorFlow Datasets by its name, or a prepared folder."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets

from kdjax import catalogue, sources
from kdjax.errors import KdjaxError, unknown
from kdjax.types import DataSet

KEYS = {'Image': 'image', 'Text': 'text', 'ClassLabel': 'label', 'Audio': 'audio'}

NAMES_FILES = re.compile(r'(^|[_/])(id|file_?name|url)$')  # texts that nobody reads


def prepared(name: str, data_dir: str | None) -> Path | None:
  """The newest prepared version of `name`, or `name` itself where it is such a folder."""
  root = Path(data_dir or tensorflow_datasets.core.constants.DATA_DIR).expanduser()
  for folder in (Path(name).expanduser(), root / name):
    if (folder / 'dataset_info.json').exists():
      return folder
    versions = [p for p in folder.glob('*.*.*') if (p / 'dataset_info.json').exists()]
    if versions:
      return max(versions, key=lambda p: [int(n) for n in re.findall(r'\d+', p.name)])
  return None


def open_builder(name: str, data_dir: str | None) -> Any:
  """A builder whose data are prepared.

  Raises:
    KdjaxError: if TFDS does not know the name, or preparing it needs TensorFlow.
  """
  if not name:
    raise KdjaxError('which data set? Set --config.data.name=NAME; `python run.py datasets` lists them.')
  folder = prepared(name, data_dir)
  if folder is not None:
    with sources.quiet_tfds(name):
      return tensorflow_datasets.builder_from_directory(folder)

  def make():
    with sources.quiet_tfds(name):
      return tensorflow_datasets.builder(name, data_dir=data_dir)

  try:
    return sources.prepare(make)
  except tensorflow_datasets.core.DatasetNotFoundError as e:
    public = tensorflow_datasets.list_builders(with_community_datasets=False)
    raise unknown('data set', name, [*catalogue.names('data'), *public]) from e
  except (ValueError, AssertionError) as e:
    reason = str(e).strip().split('\n')[0]
    raise KdjaxError(f'TFDS cannot open the data set {name!r}: {reason}') from e


def tfds(
  *, builder: str = '', data_dir: str | None = None, columns: Mapping[str, str] | None = None
) -> DataSet:
  """Images, texts, class labels and sounds of a TFDS data set.

  The first feature of each kind is taken: Image as 'image', Text as 'text', ClassLabel as
  'label', Audio as 'audio'. Without a test split the validation split is the test, and a tenth
  of the training split is for validation.

  Args:
    builder: a name such as 'cifar10' or 'glue/sst2', or a prepared folder.
    data_dir: where TFDS keeps prepared data; `~/tensorflow_datasets` by default.
    columns: 'image', 'text', 'label' or 'audio' -> the feature to take instead of the first.

  Raises:
    KdjaxError: if there is no such data set or feature.
  """
  made = open_builder(builder, data_dir)
  features = made.info.features
  chosen = {}
  for name, feature in features.items():
    if not NAMES_FILES.search(name):
      chosen.setdefault(KEYS.get(type(feature).__name__), name)
  chosen.pop(None, None)
  for key, name in dict(columns or {}).items():
    if name not in features:
      raise unknown(f'feature of {made.name}', name, features)
    chosen[key] = name

  def convert(record, index):
    example = {'id': index}
    for key, name in chosen.items():
      value = record[name]
      example[key] = value.decode() if isinstance(value, bytes) else np.asarray(value)
    return example

  names = list(made.info.splits)
  splits = {'train': sources.TfdsSource(made, 'train', convert)}
  if 'validation' in names and 'test' in names:
    splits |= {s: sources.TfdsSource(made, s, convert) for s in ('validation', 'test')}
  else:
    held = [s for s in ('test', 'validation') if s in names][:1]
    rows = np.arange(len(splits['train']))
    last = rows % 10 == 9
    whole = splits['train']
    if held:
      splits = {
        'train': sources.Subset(whole, rows[~last]),
        'validation': sources.Subset(whole, rows[last]),
        'test': sources.TfdsSource(made, held[0], convert),
      }
    else:
      splits = {
        'train': sources.Subset(whole, rows[rows % 10 < 8]),
        'validation': sources.Subset(whole, rows[rows % 10 == 8]),
        'test': sources.Subset(whole, rows[last]),
      }
  label = features[chosen['label']] if 'label' in chosen else None
  classes = tuple(getattr(label, 'names', ()))
  sizes = [(split, len(source)) for split, source in splits.items()]
  return DataSet(splits, classes, sources.fingerprint(made.info.full_name, sizes))
