"""A data set of what has random access: arrays, lists, data sets of torch, Grain, TFDS and Hugging Face."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import audio_files, draw, guess
from kdjax.input.array_labels import labels_of, marks
from kdjax.input.examples import Converted, examples, plain
from kdjax.input.label_column import Kind
from kdjax.input.splits import Subset
from kdjax.runtime.files import fingerprint
from kdjax.runtime.progress import counted, say
from kdjax.types import DataSet

SAMPLE = 1000  # examples of a split that its fingerprint is of, evenly spaced


def arrays_dataset(
  train: Any,
  test: Any = None,
  validation: Any = None,
  classes: Sequence[str] | None = None,
  *,
  label: Kind = 'class',
  columns: Mapping[str, str] | None = None,
  rate: int = 0,
  seconds: float = 0.0,
  where: str = '',
) -> DataSet:
  """A data set of splits that you have: nothing is copied, and examples are read on demand.

  A split is a dict of arrays ('image', 'text', 'audio', 'video', 'label'), a tuple (x, y), a list of dicts,
  or anything with len() and [i] that gives dicts or pairs: a Dataset of torch, a Grain or TFDS data source, a
  Dataset of Hugging Face. What x is follows from its type and shape where that leaves no doubt, and is said
  in a line. Without a test split the validation split is the test, or a tenth of train is drawn for each.

  Args:
    train: the training split.
    test: for the comparison.
    validation: for selection and tuning.
    classes: the names of the labels, in order; by default those of the training labels.
    label: what the task reads: one class, a number, several classes [C] of 0 and 1, or none.
    columns: key of a batch -> its name in the data.
    rate: samples a second of sounds, where it is known, or to resample files to.
    seconds: of each sound; 0 for the longest.
    where: the data come from, for messages.

  Raises:
    KdjaxError: for what cannot be read, or may be several things.
  """
  prefix = f'{where}: ' if where else ''
  if test is None and validation is not None:
    say(f'{prefix}there is no test split, and the validation split is the test.')
    test, validation = validation, None
  parts = {'train': train, 'validation': validation, 'test': test}
  sources = {s: examples(part, prefix + s) for s, part in parts.items() if part is not None}
  if 'train' not in sources:
    raise KdjaxError(f'{prefix}there are no training examples: give train.')
  source = sources['train']
  keys_of = {}
  for split, part in sources.items():
    first = {k: plain(v) for k, v in part[0].items()}
    given = {**getattr(part, 'suggested', {}), **(columns or {})}
    keys_of[split] = guess.keys(first, given, f'{prefix}{split}')
    if split == 'train':
      left = [n for n in first if n not in keys_of[split].values()]
      say(f'{prefix}{guess.said(keys_of[split], first, left)}.')
  keys = keys_of['train']
  classes = tuple(classes or getattr(source, 'classes', {}).get(keys.get('label'), ()))
  labelled = {s: (part, keys_of[s]['label']) for s, part in sources.items() if 'label' in keys_of[s]}
  place, names = labels_of(labelled, label, classes, prefix) if 'train' in labelled else (None, ())
  rate = rate or getattr(source, 'rate', 0)
  sounds = _sounds(source, keys['audio'], rate, seconds, prefix) if 'audio' in keys else None

  def convert(keys, example):
    converted = {}
    for key, name in keys.items():
      if name not in example:
        raise KdjaxError(f'{prefix}an example has {", ".join(example)}, and no {name!r}, which others have.')
      value = plain(example[name])
      if key == 'audio' and sounds:
        converted[key] = _sound(value, sounds, f'{prefix}a sound')
      else:
        converted[key] = place(value) if key == 'label' and place else _shaped(key, value)
    return converted

  splits: dict[str, Sequence] = {
    s: Converted(part, functools.partial(convert, keys_of[s])) for s, part in sources.items()
  }
  if len(splits) == 1:
    rows = draw.completed({'train': range(len(source))}, *marks(source, keys.get('label'), place))
    splits = {s: Subset(splits['train'], np.array(indices)) for s, indices in rows.items()}
    say(f'{prefix}splits drawn: {", ".join(f"{s} {len(x):,}" for s, x in splits.items())}.')
  if not len(splits.get('test', ())):
    raise KdjaxError(f'{prefix}{counted(len(source), "example")}: too few to draw a test split; give test.')
  content = [_digest(split) for split in splits.values()]
  mark = fingerprint(content, sorted(keys), names, label)
  return DataSet(splits, names, mark, rate=sounds.rate if sounds else rate, content=fingerprint(content))


def _sounds(source, name, rate, seconds, prefix) -> audio_files.Sounds | None:
  """How the sounds are read where they are files, or of different lengths; None for arrays of one length."""
  rows = np.unique(np.linspace(0, len(source) - 1, min(len(source), SAMPLE // 4)).astype(int))
  sounds = [source[int(i)][name] for i in rows]
  if isinstance(sounds[0], Mapping) and 'array' not in sounds[0]:
    return audio_files.measured(len(sounds), lambda i: (_file(sounds[i]), f'{prefix}a sound'), rate, seconds)
  arrays = [np.asarray(x['array'] if isinstance(x, Mapping) else x) for x in sounds]
  if any(x.ndim != 1 for x in arrays):
    return None  # features
  own_rate = int(sounds[0].get('sampling_rate') or 0) if isinstance(sounds[0], Mapping) else 0
  alike = len({len(x) for x in arrays}) == 1 and not isinstance(sounds[0], Mapping)
  return None if alike and not seconds else audio_files.of_arrays(arrays, own_rate, rate, seconds)


def _file(value: Mapping) -> Path | bytes:
  """The bytes of a WAV file, or its path."""
  content = value.get('bytes')
  return Path(str(value.get('path'))) if content is None else content


def _sound(value, sounds, where):
  if isinstance(value, Mapping) and 'array' not in value:
    return sounds.read(_file(value), where)
  own_rate = int(value.get('sampling_rate') or 0) if isinstance(value, Mapping) else 0
  return sounds.fitted(np.asarray(value['array'] if isinstance(value, Mapping) else value), own_rate)


def _shaped(key, value):
  """The value of a key: images with an axis of channels, sounds as one channel of floats."""
  if key == 'image' and isinstance(value, np.ndarray) and value.ndim == 2:
    return value[..., None]
  if key == 'audio' and isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in 'iu':
    return audio_files.one_channel(value)
  return value


def _digest(split) -> str:
  """A hash of a sample of a split's examples."""
  digest = hashlib.sha256(str(len(split)).encode())
  for i in np.unique(np.linspace(0, len(split) - 1, min(len(split), SAMPLE)).astype(int)):
    for key, value in sorted(split[int(i)].items()):
      array = np.asarray(value)
      digest.update(f'{key} {array.dtype} {array.shape}'.encode())
      digest.update(
        str(value).encode() if array.dtype.kind in 'UO' else np.ascontiguousarray(array).tobytes()
      )
  return digest.hexdigest()[:16]
