"""Sounds in files and in prepared TFDS data: one channel, one rate, floats in [-1, 1]."""

import functools
import io
import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.runtime.files import regular_file
from kdjax.runtime.packages import needed
from kdjax.runtime.progress import say

WAV = b'RIFF', b'RIFX', b'RF64'  # what a WAV file begins with
COMPRESSED = b'fLaC', b'OggS', b'ID3', b'\xff\xfb', b'\xff\xf3', b'\xff\xf2', b'\xff\xfa', b'FORM'
SUFFIXES = ('.wav', '.wave', '.flac', '.ogg', '.opus', '.mp3', '.aif', '.aiff')
LARGEST = 2**28  # samples of a compressed sound, all channels together
LONGEST = 30.0  # seconds of a sound, where nothing says how long they are


def read_sound(path: Path | bytes, rate: int, where: str) -> np.ndarray:
  """f32 [N] in [-1, 1] at `rate` samples a second, the channels of a file, or of its bytes, averaged.

  WAV, and with the package soundfile FLAC, Ogg (Vorbis, Opus), MP3 and AIFF.
  Integers of 8, 16, 24 and 32 bits are scaled by their range, floats are not. A file of another rate is
  resampled, and a line is printed for each such rate.

  Raises:
    KdjaxError: if the file is missing, cannot be read or holds no sound, naming it and `where` it is named.
  """
  name = 'it' if isinstance(path, bytes) else str(path)
  file_rate, samples = _decoded(path, name, where)
  waveform = one_channel(samples)
  if not waveform.size or not file_rate:
    raise KdjaxError(f'{where}: {name} holds no sound: {waveform.size} samples at {file_rate} a second.')
  if not np.isfinite(waveform).all():
    raise KdjaxError(f'{where}: {name} holds samples that are no numbers.')
  return resample(waveform, file_rate, rate)


def _decoded(path, name, where):
  """(samples a second, samples [N] or [N, channels])."""
  try:
    with io.BytesIO(path) if isinstance(path, bytes) else regular_file(path, 'sound').open('rb') as opened:
      begin = opened.read(4)
      opened.seek(0)
      if begin.startswith(COMPRESSED):
        return _by_libsndfile(opened, name)
      if not begin.startswith(WAV):
        raise ValueError('it is no WAV, FLAC, Ogg, MP3 or AIFF file')
      from scipy.io import wavfile  # with its sparse matrices it takes half a second

      with warnings.catch_warnings():
        warnings.simplefilter('ignore', wavfile.WavFileWarning)  # for chunks that are not audio
        return wavfile.read(opened)
  except FileNotFoundError as e:
    raise KdjaxError(f'{where}: there is no sound {path}.') from e
  except KdjaxError as e:
    raise KdjaxError(f'{where}: {e}') from e
  except Exception as e:  # a header of nonsense raises all sorts
    reason = ' '.join(str(e).split()) or type(e).__name__
    raise KdjaxError(f'{where}: {name} is not a readable sound ({reason}).') from e


def _by_libsndfile(opened, name):
  """The same of FLAC, Ogg, MP3 and AIFF."""
  soundfile = needed('soundfile', f'{name}, which is no WAV file,', 'pip install soundfile')
  with soundfile.SoundFile(opened) as sound:
    if not 0 <= sound.frames * sound.channels <= LARGEST:
      raise ValueError(f'{sound.frames:,} samples of {sound.channels} channels; at most {LARGEST:,}')
    return sound.samplerate, sound.read(dtype='float32')


class Sounds(NamedTuple):
  """How the sounds of a data set are read: samples a second, and samples of each."""

  rate: int
  samples: int

  def read(self, source: Path | bytes, where: str) -> np.ndarray:
    """f32 [samples] of a file: resampled, its end cut or filled up with zeros."""
    return fit(read_sound(source, self.rate, where), self.samples)

  def fitted(self, samples: np.ndarray, rate: int) -> np.ndarray:
    """f32 [samples] of an array of `rate` samples a second, of floats or integers of 16 bits and others."""
    samples = samples.astype(np.int16) if samples.dtype == np.int64 else samples  # as TFDS gives 16 bits
    return fit(resample(one_channel(samples), rate or self.rate, self.rate), self.samples)

  def silence(self) -> np.ndarray:
    return np.zeros(self.samples, np.float32)


def measured(
  count: int, source: Callable[[int], tuple[Path | bytes, str]], rate: int, seconds: float, sample: int = 256
) -> Sounds:
  """How to read `count` sounds alike, printed: by default at the most frequent rate, as long as the longest.

  Args:
    count: of the training sounds, of which a sample is read.
    source: index -> (file or its bytes, where it is named).
    rate: samples a second; 0 for the most frequent of the sample.
    seconds: of each sound; 0 for the longest of the sample, `LONGEST` at most.

  Raises:
    KdjaxError: for a sound that cannot be read.
  """
  if rate and seconds:
    return Sounds(rate, max(round(rate * seconds), 1))
  rates, durations = Counter(), []
  for i in np.unique(np.linspace(0, count - 1, min(count, sample)).astype(int)):
    path, where = source(int(i))
    file_rate, samples = _decoded(path, 'it' if isinstance(path, bytes) else str(path), where)
    rates[int(file_rate)] += 1
    durations.append(len(samples) / max(file_rate, 1))
  rate = rate or rates.most_common(1)[0][0]
  longest = max(durations)
  chosen = seconds or min(longest, LONGEST)
  how = 'data.options.seconds' if seconds else 'the longest' if longest <= LONGEST else f'of {longest:.1f} s'
  say(
    f'sounds: {rate:,} samples a second, {chosen:.2f} s each ({how}); shorter ones end in silence; set '
    'data.options.rate and data.options.seconds for others.'
  )
  return Sounds(rate, max(round(rate * chosen), 1))


def one_channel(samples: np.ndarray) -> np.ndarray:
  """f32 [N] of samples [N] or [N, channels]: integers scaled by their range, channels averaged."""
  dtype = samples.dtype
  if dtype.kind in 'iu':
    scale = 2.0 ** (8 * dtype.itemsize - 1)
    samples = samples / scale - (dtype.kind == 'u')
  samples = samples.mean(1) if samples.ndim > 1 else samples
  return samples.astype(np.float32)


def resample(sound: np.ndarray, source_rate: int, rate: int) -> np.ndarray:
  """f32 [N] -> f32 [N · rate / source_rate], rounded up, through a polyphase filter."""
  if source_rate == rate:
    return sound
  from scipy.signal import resample_poly  # takes a second to import

  _print_resampling(source_rate, rate)
  divisor = math.gcd(source_rate, rate)
  return resample_poly(sound, rate // divisor, source_rate // divisor).astype(np.float32)


@functools.cache
def _print_resampling(source_rate, rate):
  say(f'sound of {source_rate} samples a second is resampled to {rate}.')


def fit(sound: np.ndarray, length: int) -> np.ndarray:
  """[N] -> [length]: the end is cut, or filled up with zeros."""
  return np.pad(sound[:length], (0, max(length - len(sound), 0)))


def of_arrays(arrays: Sequence[np.ndarray], own_rate: int, rate: int, seconds: float) -> Sounds:
  """How to read sounds that are arrays alike, printed; as `measured` does for files.

  Args:
    arrays: a sample of them.
    own_rate: their samples a second, 0 where that is not known.
    rate: to resample to; 0 leaves them.
    seconds: of each sound; 0 for the longest.

  Raises:
    KdjaxError: where the samples a second are needed and not known.
  """
  if seconds and not (own_rate or rate):
    raise KdjaxError('data.options.seconds needs the samples a second of the sounds: set data.options.rate.')
  rate = rate or own_rate
  longest = max(len(x) for x in arrays)
  samples = (
    round(seconds * rate) if seconds else -(-longest * rate // (own_rate or rate)) if rate else longest
  )
  at = f' at {rate:,} a second' if rate else ''
  say(f'sounds: {samples:,} samples each{at}; longer ones are cut, shorter ones end in silence.')
  return Sounds(rate, max(samples, 1))
