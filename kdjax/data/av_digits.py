"""Audio-visual digits: an image of MNIST and a recording of the same digit; unheard speakers in the test."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kdjax import sound, sources
from kdjax.errors import KdjaxError, unknown
from kdjax.options import Count, Name, NonNegative, Number
from kdjax.progress import track
from kdjax.types import DataSet

RATE = 8000
IMAGES = 50_000  # of MNIST's training images; the other 10,000 are for validation
SPOKEN = re.compile(r'(\d)_(.+)_\d+\.wav')  # digit, speaker, number


class Recording(NamedTuple):
  digit: int
  speaker: str
  sound: np.ndarray  # f32 [N]


def recordings(records: Iterable[Mapping], rate: int = RATE) -> list[Recording]:
  """Those of spoken_digit, at `RATE`, sorted by digit and speaker.

  Raises:
    KdjaxError: if a file's name does not tell the speaker.
  """
  made = []
  for record in records:
    name = record['audio/filename'].decode()
    found = SPOKEN.fullmatch(name)
    if not found:
      raise KdjaxError(f'spoken_digit: the recording {name!r} is not called DIGIT_SPEAKER_NUMBER.wav.')
    samples = np.asarray(record['audio'], np.float32) / 2**15  # of 16 bits
    heard = sound.resample(samples, rate, RATE)
    made.append((name, Recording(int(found[1]), found[2], heard)))
  return [recording for _, recording in sorted(made, key=lambda named: named[0])]


def by_speaker(
  found: Sequence[Recording], speakers: Mapping[str, Sequence[str]]
) -> dict[str, list[list[np.ndarray]]]:
  """split -> digit -> recordings; who is in no split of `speakers` is in 'train'.

  Raises:
    KdjaxError: for a speaker that there is not, one in two splits, or a split without some digit.
  """
  there = {r.speaker for r in found}
  where = {}
  for split, names in speakers.items():
    for name in names:
      if name not in there:
        raise unknown('speaker', name, there)
      if where.setdefault(name, split) != split:
        raise KdjaxError(f'the speaker {name!r} is in {where[name]} and in {split}: name other speakers.')
  made = {split: [[] for _ in range(10)] for split in ('train', *speakers)}
  for r in found:
    made[where.get(r.speaker, 'train')][r.digit].append(r.sound)
  for split, digits in made.items():
    if not all(digits):
      raise KdjaxError(f'av_digits: the speakers of {split} do not say every digit.')
  return made


class Pairs(Sequence):
  """Image i and a recording of its digit: which one, and the noise, depend on i and the split alone."""

  def __init__(
    self,
    images: Sequence[tuple[np.ndarray, int]],
    spoken: Sequence[Sequence[np.ndarray]],
    key: int,
    length: int,
    image_noise: float,
    sound_noise: float | None,
  ):
    self.images, self.spoken, self.key, self.length = images, spoken, key, length
    self.image_noise, self.sound_noise = image_noise, sound_noise

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index):
    index = int(index)
    image, digit = self.images[index]
    rng = np.random.default_rng((self.key, index))
    heard = self.spoken[digit][rng.integers(len(self.spoken[digit]))]
    audio = sound.fit(heard, self.length)
    if self.image_noise:
      noisy = image + 255 * self.image_noise * rng.standard_normal(image.shape, np.float32)
      image = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    if self.sound_noise is not None:
      power = np.mean(np.square(heard)) / 10 ** (self.sound_noise / 10)
      audio = audio + np.sqrt(power) * rng.standard_normal(self.length, np.float32)
    return {'image': image, 'audio': audio.astype(np.float32), 'label': digit, 'id': index}


def av_digits(
  *,
  data_dir: str | None = None,
  train: Count = 12_000,
  validation: Count = 2000,
  test: Count = 5000,
  samples: Count = 5120,
  image_noise: NonNegative = 0.0,
  sound_noise: Number | None = None,
  validation_speakers: tuple[Name, ...] = ('theo',),
  test_speakers: tuple[Name, ...] = ('yweweler',),
) -> DataSet:
  """`image` u8 [28, 28, 1] and `audio` f32 [samples] at 8 kHz of one digit, from TFDS.

  MNIST (LeCun and others, 1998) and the Free Spoken Digit Dataset (six speakers, 50 recordings of every
  digit each), TFDS's `mnist` and `spoken_digit`. No image and no speaker is in two splits: the four other
  speakers, and images 0 to 49,999, are in train, the last 10,000 of MNIST's training images in validation,
  its test images in test. A recording is paired with several images; what one split holds of a single
  speaker is 500 recordings, so that an accuracy on it is one on that voice.

  Args:
    data_dir: where TFDS keeps prepared data; `~/tensorflow_datasets` by default.
    train, validation, test: pairs of each split, an image each.
    samples: length of a sound, cut or filled up with zeros at its end: 5120 are 0.64 s.
    image_noise: standard deviation of normal noise on each pixel, 1 for the range from black to white.
    sound_noise: signal-to-noise ratio of white noise in dB, over a recording's own length; None for none.
    validation_speakers, test_speakers: who is heard in those splits alone.

  Raises:
    KdjaxError: for more pairs than images, speakers that there are not, or data that TFDS cannot prepare.
  """
  sizes = {'train': train, 'validation': validation, 'test': test}
  for split, most in (('train', IMAGES), ('validation', 10_000), ('test', 10_000)):
    if not 0 < sizes[split] <= most:
      raise KdjaxError(f'av_digits: {split}={sizes[split]}; there are 1 to {most} pairs, an image each.')
  if samples < 1:
    raise KdjaxError(f'av_digits: samples={samples}; a sound has 1 or more.')
  mnist, spoken = (sources.open_builder(name, data_dir) for name in ('mnist', 'spoken_digit'))
  rows = sources.TfdsSource(spoken, 'train', lambda record, index: record)
  rate = spoken.info.features['audio'].sample_rate or RATE
  records = track((rows[i] for i in range(len(rows))), 'reading spoken_digit', len(rows))
  found = recordings(records, rate)
  heard = by_speaker(found, {'validation': validation_speakers, 'test': test_speakers})

  def seen(record, index):
    return np.asarray(record['image']), int(record['label'])

  images = {split: sources.TfdsSource(mnist, split, seen) for split in ('train', 'test')}
  starts = {'train': ('train', 0), 'validation': ('train', IMAGES), 'test': ('test', 0)}
  splits = {}
  for key, (split, (part, start)) in enumerate(starts.items()):
    chosen = sources.Subset(images[part], np.arange(start, start + sizes[split]))
    splits[split] = Pairs(chosen, heard[split], key, samples, image_noise, sound_noise)
  what = (sizes, samples, image_noise, sound_noise, tuple(validation_speakers), tuple(test_speakers))
  known = sources.fingerprint(mnist.info.full_name, spoken.info.full_name, len(found), what)
  licence = 'images CC-BY-SA-3.0, recordings CC-BY-SA-4.0'
  return DataSet(splits, tuple(map(str, range(10))), known, licence, RATE, files=sources.files(mnist, spoken))
