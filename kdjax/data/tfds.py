"""Any data set of TensorFlow Datasets by its name, or a prepared folder."""

import re
from collections.abc import Mapping

import numpy as np

from kdjax import sources
from kdjax.errors import unknown
from kdjax.types import DataSet

KEYS = {'Image': 'image', 'Text': 'text', 'ClassLabel': 'label', 'Audio': 'audio'}

NAMES_FILES = re.compile(r'(^|[_/])(id|file_?name|url)$')  # texts that nobody reads


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
  made = sources.open_builder(builder, data_dir)
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
