"""Sounds in files and in prepared TFDS data: one channel, one rate, floats in [-1, 1]."""

import functools
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from scipy.io import wavfile
from tensorflow_datasets.core.features import feature

from kdjax.errors import KdjaxError
from kdjax.runtime.files import regular_file
from kdjax.runtime.progress import say


def read_sound(path: Path, rate: int, where: str) -> np.ndarray:
  """f32 [N] in [-1, 1] at `rate` samples a second, the channels of a WAV file averaged.

  Integers of 8, 16, 24 and 32 bits are scaled by their range, floats are taken as they are. A file of
  another rate is resampled, which is said once for each rate.

  Raises:
    KdjaxError: if the file is missing, no WAV or holds no sound, naming it and `where` it is asked for.
  """
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', wavfile.WavFileWarning)  # of chunks that are no sound
      theirs, samples = wavfile.read(regular_file(path, 'sound'))
  except FileNotFoundError as e:
    raise KdjaxError(f'{where}: there is no sound {path}.') from e
  except Exception as e:  # a header of nonsense raises all sorts
    reason = ' '.join(str(e).split()) or type(e).__name__
    raise KdjaxError(f'{where}: {path} is not a readable WAV file ({reason}).') from e
  sound = one_channel(samples)
  if not sound.size or not theirs:
    raise KdjaxError(f'{where}: {path} holds no sound: {sound.size} samples at {theirs} a second.')
  if not np.isfinite(sound).all():
    raise KdjaxError(f'{where}: {path} holds samples that are no numbers.')
  return resample(sound, theirs, rate)


def one_channel(samples: np.ndarray) -> np.ndarray:
  """f32 [N] of samples [N] or [N, channels]: integers scaled by their range, channels averaged."""
  kind = samples.dtype
  if kind.kind in 'iu':
    half = 2.0 ** (8 * kind.itemsize - 1)
    samples = samples / half - (kind.kind == 'u')
  samples = samples.mean(1) if samples.ndim > 1 else samples
  return samples.astype(np.float32)


def resample(sound: np.ndarray, theirs: int, rate: int) -> np.ndarray:
  """f32 [N] -> f32 [N · rate / theirs], rounded up, through a polyphase filter."""
  if theirs == rate:
    return sound
  from scipy.signal import resample_poly  # takes a second to import

  _say_resampled(theirs, rate)
  shared = math.gcd(theirs, rate)
  return resample_poly(sound, rate // shared, theirs // shared).astype(np.float32)


@functools.cache
def _say_resampled(theirs, rate):
  say(f'sound of {theirs} samples a second is resampled to {rate}.')


def fit(sound: np.ndarray, length: int) -> np.ndarray:
  """[N] -> [length]: the end is cut, or filled up with zeros."""
  return np.pad(sound[:length], (0, max(length - len(sound), 0)))


class Audio(tfds.features.Tensor):
  """TFDS's own feature of sounds, for reading prepared data without TensorFlow.

  TFDS finds it through the alias whenever it opens a prepared folder.
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
