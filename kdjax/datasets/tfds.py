"""Any data set of TensorFlow Datasets by its name, or a prepared folder."""

from collections.abc import Mapping, Sequence

import numpy as np

from kdjax.errors import unknown
from kdjax.input import audio_files, tfds_source
from kdjax.input.splits import Subset
from kdjax.input.table_file import split_name
from kdjax.options import NonNegative, Whole
from kdjax.runtime import files
from kdjax.runtime.progress import track
from kdjax.types import DataSet


def tfds(
  *,
  builder: str = '',
  data_dir: str | None = None,
  columns: Mapping[str, str] | None = None,
  hold_out: Whole = 10,
  leave_out: tuple[Whole, ...] = (),
  rate: Whole = 0,
  seconds: NonNegative = 0.0,
  download: bool = False,
) -> DataSet:
  """Images, texts, class labels and sounds of a TFDS data set.

  The first feature of each kind is taken: Image as 'image', Text as 'text', ClassLabel as
  'label', Audio as 'audio'. Without a test split the validation split is the test, and a tenth
  of the training split is for validation.

  Args:
    builder: a name such as 'cifar10' or 'glue/sst2', or a prepared folder.
    data_dir: where TFDS keeps prepared data; `~/tensorflow_datasets` by default.
    columns: 'image', 'text', 'label' or 'audio' -> the feature to take instead of the first.
    hold_out: of a set without both a validation and a test split, one training example in so many is
      held out for it; 0 trains on all and has no validation split, as published recipes often do.
    leave_out: labels that the split 'transfer' lacks, which is otherwise 'train'.
    rate: samples a second that sounds are resampled to; with it or `seconds` they are floats from -1 to 1.
    seconds: of each sound; 0 for the longest.
    download: whether TFDS may download what is not prepared.

  Raises:
    KdjaxError: if there is no such data set or feature.
  """
  dataset = tfds_source.open_builder(builder, data_dir, download)
  features = dataset.info.features
  chosen = tfds_source.first_features(dataset)
  for key, name in dict(columns or {}).items():
    if name not in features:
      raise unknown(f'feature of {dataset.name}', name, features)
    chosen[key] = name

  sounds, own_rate = (
    None,
    getattr(features[chosen['audio']], 'sample_rate', 0) or 0 if 'audio' in chosen else 0,
  )

  def convert(record, index):
    example = {'id': index}
    for key, name in chosen.items():
      value = record[name]
      if key == 'audio' and sounds:
        example[key] = sounds.fitted(np.asarray(value), own_rate or sounds.rate)
        continue
      example[key] = value.decode() if isinstance(value, bytes) else np.asarray(value)
    return example

  names = {split_name(s): s for s in dataset.info.splits} | {s: s for s in dataset.info.splits}
  splits: dict[str, Sequence] = {
    'train': tfds_source.TfdsSource(dataset, names.get('train', 'train'), convert)
  }
  if 'validation' in names and 'test' in names:
    splits |= {s: tfds_source.TfdsSource(dataset, names[s], convert) for s in ('validation', 'test')}
  else:
    test_split = [s for s in ('test', 'validation') if s in names][:1]
    rows = np.arange(len(splits['train']))
    full = splits['train']
    if test_split:
      splits = {'train': full, 'test': tfds_source.TfdsSource(dataset, names[test_split[0]], convert)}
      if hold_out:
        last = rows % hold_out == hold_out - 1
        splits |= {k: Subset(full, rows[x]) for k, x in (('train', ~last), ('validation', last))}
    else:
      splits = {
        'train': Subset(full, rows[rows % 10 < 8]),
        'validation': Subset(full, rows[rows % 10 == 8]),
        'test': Subset(full, rows[rows % 10 == 9]),
      }
  if 'audio' in chosen and (rate or seconds):
    sounds = audio_files.of_arrays([e['audio'] for e in _some(splits['train'])], own_rate, rate, seconds)
    rate_of_data = sounds.rate
  else:
    rate_of_data = own_rate
  if leave_out:
    train = splits['train']
    labels = np.array([train[i]['label'] for i in track(range(len(train)), 'reading labels', len(train))])
    splits['transfer'] = Subset(train, np.flatnonzero(~np.isin(labels, leave_out)))
  label = features[chosen['label']] if 'label' in chosen else None
  classes = tuple(getattr(label, 'names', ()))
  sizes = [(split, len(source)) for split, source in splits.items()] + [leave_out] * bool(leave_out)
  mark = files.fingerprint(dataset.info.full_name, sizes + [sounds] * bool(sounds))
  return DataSet(splits, classes, mark, rate=rate_of_data, files=tfds_source.files(dataset))


def _some(source: Sequence, most: int = 256) -> list:
  """Examples of a source, evenly spaced."""
  return [
    source[int(i)] for i in np.unique(np.linspace(0, len(source) - 1, min(len(source), most)).astype(int))
  ]
