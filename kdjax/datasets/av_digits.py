"""Audio-visual digits: an image of MNIST and a recording of its digit; test speakers are not in train."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kdjax.errors import KdjaxError, unknown
from kdjax.input import audio_files, tfds_source
from kdjax.input.splits import Subset
from kdjax.options import Count, Name, NonNegative, Number
from kdjax.runtime import files
from kdjax.runtime.progress import track
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
  by_name = []
  for record in records:
    name = record['audio/filename'].decode()
    match = SPOKEN.fullmatch(name)
    if not match:
      raise KdjaxError(f'spoken_digit: the recording {name!r} is not called DIGIT_SPEAKER_NUMBER.wav.')
    samples = np.asarray(record['audio'], np.float32) / 2**15  # of 16 bits
    resampled = audio_files.resample(samples, rate, RATE)
    by_name.append((name, Recording(int(match[1]), match[2], resampled)))
  return [recording for _, recording in sorted(by_name, key=lambda item: item[0])]


def by_speaker(
  spoken: Sequence[Recording], speakers: Mapping[str, Sequence[str]]
) -> dict[str, list[list[np.ndarray]]]:
  """split -> digit -> recordings; a speaker in no split of `speakers` is in 'train'.

  Raises:
    KdjaxError: for an unknown speaker, one in two splits, or a split without some digit.
  """
  all_speakers = {r.speaker for r in spoken}
  split_of = {}
  for split, names in speakers.items():
    for name in names:
      if name not in all_speakers:
        raise unknown('speaker', name, all_speakers)
      if split_of.setdefault(name, split) != split:
        raise KdjaxError(f'the speaker {name!r} is in {split_of[name]} and in {split}: name other speakers.')
  splits = {split: [[] for _ in range(10)] for split in ('train', *speakers)}
  for r in spoken:
    splits[split_of.get(r.speaker, 'train')][r.digit].append(r.sound)
  for split, digits in splits.items():
    if not all(digits):
      raise KdjaxError(f'av_digits: the speakers of {split} do not say every digit.')
  return splits


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
    recording = self.spoken[digit][int(rng.integers(len(self.spoken[digit])))]
    audio = audio_files.fit(recording, self.length)
    if self.image_noise:
      noisy = image + 255 * self.image_noise * rng.standard_normal(image.shape, np.float32)
      image = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    if self.sound_noise is not None:
      power = np.mean(np.square(recording)) / 10 ** (self.sound_noise / 10)
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
  download: bool = False,
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
    validation_speakers, test_speakers: the speakers of those splits, in no other.
    download: whether TFDS may download what is not prepared.

  Raises:
    KdjaxError: for more pairs than images, unknown speakers, or data that TFDS cannot prepare.
  """
  sizes = {'train': train, 'validation': validation, 'test': test}
  for split, limit in (('train', IMAGES), ('validation', 10_000), ('test', 10_000)):
    if not 0 < sizes[split] <= limit:
      raise KdjaxError(f'av_digits: {split}={sizes[split]}; there are 1 to {limit} pairs, an image each.')
  if samples < 1:
    raise KdjaxError(f'av_digits: samples={samples}; a sound has 1 or more.')
  mnist, spoken = (tfds_source.open_builder(name, data_dir, download) for name in ('mnist', 'spoken_digit'))
  rows = tfds_source.TfdsSource(spoken, 'train', lambda record, index: record)
  rate = spoken.info.features['audio'].sample_rate or RATE
  records = track((rows[i] for i in range(len(rows))), 'reading spoken_digit', len(rows))
  spoken_digits = recordings(records, rate)
  by_split = by_speaker(spoken_digits, {'validation': validation_speakers, 'test': test_speakers})

  def convert(record, index):
    return np.asarray(record['image']), int(record['label'])

  images = {split: tfds_source.TfdsSource(mnist, split, convert) for split in ('train', 'test')}
  starts = {'train': ('train', 0), 'validation': ('train', IMAGES), 'test': ('test', 0)}
  splits = {}
  for key, (split, (part, start)) in enumerate(starts.items()):
    subset = Subset(images[part], np.arange(start, start + sizes[split]))
    splits[split] = Pairs(subset, by_split[split], key, samples, image_noise, sound_noise)
  settings = (sizes, samples, image_noise, sound_noise, tuple(validation_speakers), tuple(test_speakers))
  mark = files.fingerprint(mnist.info.full_name, spoken.info.full_name, len(spoken_digits), settings)
  licence = 'images CC-BY-SA-3.0, recordings CC-BY-SA-4.0'
  return DataSet(
    splits, tuple(map(str, range(10))), mark, licence, RATE, files=tfds_source.files(mnist, spoken)
  )
