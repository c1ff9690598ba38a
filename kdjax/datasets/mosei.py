"""CMU-MOSEI or CMU-MOSI: spoken opinions as features of words, voice and face, from a file of yours."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import numpy_pickle
from kdjax.runtime.files import fingerprint
from kdjax.runtime.progress import say, track
from kdjax.types import DataSet

SPLITS = {'train': 'train', 'valid': 'validation', 'test': 'test'}  # as the files call them
KEYS = {'words': 'text', 'audio': 'audio', 'video': 'vision'}
CHUNK = 64  # utterances scanned together


class Features(NamedTuple):
  """One modality of a split.

  Attributes:
    values: [N, L, D] as the file has them.
    mask: bool [N, L], the valid positions.
    mean: f32 [D], of the valid positions in training, or zeros.
    scale: f32 [D], one over their standard deviation, or ones.
  """

  values: np.ndarray
  mask: np.ndarray
  mean: np.ndarray
  scale: np.ndarray


def finite(values: np.ndarray) -> np.ndarray:
  """f32, with zeros for what is no number: COVAREP gives -inf for the log of nothing."""
  with np.errstate(over='ignore'):  # a float64 may be infinite as f32
    values = values.astype(np.float32)
  return np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def span(values: np.ndarray) -> np.ndarray:
  """bool [N, L]: from the first to the last position whose features [N, L, D] are not all 0."""
  nonzero = np.any(values != 0, -1)
  return (np.cumsum(nonzero, 1) > 0) & (np.cumsum(nonzero[:, ::-1], 1)[:, ::-1] > 0)


class Utterances(Sequence):
  """The examples of a split, built on demand."""

  def __init__(
    self, features: Mapping[str, Features], labels: np.ndarray, texts: Sequence[str | bytes] | None
  ):
    self.features, self.labels, self.texts = features, labels, texts

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index):
    example = {'id': index, 'label': self.labels[index]}
    for key, (values, mask, mean, scale) in self.features.items():
      valid = mask[index]
      example[key] = np.where(valid[:, None], (finite(values[index]) - mean) * scale, 0)
      example |= {f'{key}/mask': valid, f'{key}/present': np.float32(valid.any())}
    if self.texts is not None:
      text = self.texts[index]
      example['text'] = text if isinstance(text, str) else text.decode('utf-8', 'replace')
    return example


def texts_of(part: Mapping, n: int, where: str) -> Sequence[str | bytes] | None:
  texts = part.get('raw_text')
  if texts is None:
    return None
  is_list = isinstance(texts, list | tuple) or (isinstance(texts, np.ndarray) and texts.ndim == 1)
  if not is_list or len(texts) != n or not all(isinstance(t, str | bytes) for t in texts):
    raise KdjaxError(f'{where}.raw_text is not one text for each of {n} utterances')
  return cast(Sequence[str | bytes], texts)  # an array is one too, but for its type


def numbers(values, n: int | None, name: str) -> np.ndarray:
  """f64 [N] of an array of N numbers in any shape, or of a list of numbers.

  Raises:
    KdjaxError: if it is anything else.
  """
  if isinstance(values, list | tuple) and all(isinstance(v, int | float | np.generic) for v in values):
    values = np.array(values)
  is_array = isinstance(values, np.ndarray)
  if not is_array or values.dtype.kind not in 'iufb' or not values.ndim or values.size != len(values):
    shape = f' {list(values.shape)}' if isinstance(values, np.ndarray) else ''
    raise KdjaxError(f'{name} is a {type(values).__name__}{shape}, and not one number for each utterance')
  if n is not None and len(values) != n:
    raise KdjaxError(f'{name} has {len(values)} numbers for {n} utterances')
  return values.reshape(-1).astype(np.float64)


def labels_of(part: Mapping, where: str) -> np.ndarray:
  """f32 [N] in [-3, 3]; NaN where it is not known."""
  key = next((k for k in ('regression_labels', 'labels') if k in part), None)
  if key is None:
    raise KdjaxError(f"{where} has {', '.join(map(str, part))}, and neither 'regression_labels' nor 'labels'")
  labels = numbers(part[key], None, f'{where}.{key}')
  labels[~np.isfinite(labels)] = np.nan
  if outside := int(np.sum(np.abs(labels) > 3)):
    say(f'mosei: {outside} labels of {where} lie outside [-3, 3] and are moved to its edge.')
  return np.clip(labels, -3, 3).astype(np.float32)


def values_of(part: Mapping, key: str, n: int, where: str) -> np.ndarray:
  values = part[key]
  good = isinstance(values, np.ndarray) and values.dtype.kind in 'iuf' and values.ndim == 3 and values.size
  if not good or len(values) != n:
    shape = (
      f'{values.dtype} {list(values.shape)}' if isinstance(values, np.ndarray) else type(values).__name__
    )
    raise KdjaxError(f'{where}.{key} is {shape}, and no array of numbers [{n}, L, D]')
  return values


def mask_of(part: Mapping, key: str, values: np.ndarray, where: str) -> np.ndarray | None:
  """The valid positions by the file itself, from lengths or BERT's mask of the words; None without them."""
  n, length = values.shape[:2]
  bert = part.get('text_bert') if key == 'text' else None
  if isinstance(bert, np.ndarray) and bert.shape == (n, 3, length) and bert.dtype.kind in 'iufb':
    return bert[:, 1] > 0
  if f'{key}_lengths' not in part:
    return None
  lengths = numbers(part[f'{key}_lengths'], n, f'{where}.{key}_lengths')
  if not np.all((lengths >= 0) & (lengths <= length)):
    raise KdjaxError(f'{where}.{key}_lengths has lengths that are not in 0 to {length}')
  return np.arange(length) < lengths[:, None]


class Scan(NamedTuple):
  """Statistics of all values of a modality: the mask, how many values are not finite, how many utterances
  have some outside the mask, and the count, sums [D] and sums of squares [D] of the valid ones."""

  mask: np.ndarray
  bad: int
  outside: int
  sums: list


def scan(values: np.ndarray, mask: np.ndarray | None, title: str) -> Scan:
  masks, bad, outside, sums = [], 0, 0, [0, 0, 0]
  for start in track(range(0, len(values), CHUNK), title, -(-len(values) // CHUNK), 'block'):
    raw = values[start : start + CHUNK]
    clean = finite(raw)
    nonzero = span(clean)
    masks.append(nonzero if mask is None else mask[start : start + CHUNK])
    bad += int(np.sum(~np.isfinite(raw)))
    outside += int(np.sum(np.any(nonzero & ~masks[-1], 1)))
    valid = clean[masks[-1]].astype(np.float64)
    sums = [a + b for a, b in zip(sums, (len(valid), valid.sum(0), np.square(valid).sum(0)), strict=True)]
  return Scan(np.concatenate(masks), bad, outside, sums)


def standard(sums) -> tuple[np.ndarray, np.ndarray]:
  """Mean and one over the standard deviation; a feature that never changes is left at 0."""
  count, total, squares = sums
  mean = total / max(count, 1)
  std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
  varies = std > 1e-6 * np.maximum(np.abs(mean), 1e-6)
  return mean.astype(np.float32), np.where(varies, 1 / np.where(varies, std, 1), 0).astype(np.float32)


def splits_of(data, standardise: bool, transcripts: bool) -> dict[str, Utterances]:
  if not isinstance(data, dict) or not all(isinstance(data.get(s), dict) for s in SPLITS):
    keys = ', '.join(map(str, list(data)[:8])) if isinstance(data, dict) else type(data).__name__
    raise KdjaxError(f'it holds {keys or "nothing"}, and not a dict each for train, valid and test')
  modalities = {k: v for k, v in KEYS.items() if v in data['train']}
  if not modalities:
    raise KdjaxError(
      f'train has {", ".join(map(str, data["train"]))}, and none of {", ".join(KEYS.values())}'
    )
  splits, scales, bad = {}, {}, dict.fromkeys(modalities, 0)
  for split, name in SPLITS.items():
    part = data[split]
    if missing := [v for v in modalities.values() if v not in part]:
      raise KdjaxError(f'{split} has no {missing[0]!r}, and train has')
    labels, features = labels_of(part, split), {}
    for key, column in modalities.items():
      values = values_of(part, column, len(labels), split)
      stats = scan(values, mask_of(part, column, values, split), f'{split}: {key}')
      bad[key] += stats.bad
      if stats.outside and key != 'words':  # BERT has vectors for its padding too
        say(f'mosei: {stats.outside:,} utterances of {split} have {key} past its length, which is left out.')
      if split == 'train':
        width = values.shape[2:]
        plain = np.zeros(width, np.float32), np.ones(width, np.float32)
        scales[key] = standard(stats.sums) if standardise else plain
      if scales[key][0].shape != values.shape[2:]:
        raise KdjaxError(f'{split}.{column} has {values.shape[2]} features, and train {len(scales[key][0])}')
      features[key] = Features(values, stats.mask, *scales[key])
    splits[name] = Utterances(features, labels, texts_of(part, len(labels), split) if transcripts else None)
  if any(bad.values()):
    counts = ', '.join(f'{n:,} of {key}' for key, n in bad.items() if n)
    say(f'mosei: values that are no numbers (NaN, infinite) are read as 0: {counts}.')
  return splits


def mosei(*, path: str = '', standardise: bool = True, transcripts: bool = True) -> DataSet:
  """Features of words, voice and face of each utterance, and its sentiment in [-3, 3].

  An example has 'words', 'audio' and 'video', f32 [L, D] each with a '/mask' [L] and a '/present', 'label'
  f32 [] (NaN where it is not known), and 'text' where the file has transcripts. docs/mosei.md lists what
  the file must hold, and its releases. No code in it is run.

  Args:
    path: a pickle of MMSA (aligned_50.pkl, unaligned_50.pkl), MultiBench or MulT.
    standardise: features have mean 0 and standard deviation 1 over the valid positions of the training
      split; False takes them as they are.
    transcripts: whether the examples have the text, which costs a vocabulary.

  Raises:
    KdjaxError: if the file is not what it should be.
  """
  if not path:
    raise KdjaxError(
      'which file of features? Set --config.data.path=FILE (docs/mosei.md says what it holds).'
    )
  data = numpy_pickle.read(path)
  try:
    splits = splits_of(data, standardise, transcripts)
  except KdjaxError as e:
    raise KdjaxError(f'{path} is no file of features: {e}.') from e
  with Path(path).open('rb') as file:
    digest = hashlib.file_digest(file, 'blake2b').hexdigest()
  licence = 'research; the terms of whoever gave you the file, and of the videos'
  return DataSet(splits, (), fingerprint(digest, standardise, transcripts), licence)
