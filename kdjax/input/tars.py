"""Files in tars, grouped by name, read where they lie: nothing is extracted, links and pipes are refused."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdjax.errors import KdjaxError
from kdjax.input import audio_files, numpy_arrays
from kdjax.runtime.files import regular_file
from kdjax.runtime.progress import track

IMAGES = ('jpg', 'jpeg', 'png', 'webp', 'gif', 'bmp', 'tif', 'tiff', 'ppm')
SOUNDS = tuple(suffix.removeprefix('.') for suffix in audio_files.SUFFIXES)
KEYS = (
  dict.fromkeys(IMAGES, 'image')
  | dict.fromkeys(SOUNDS, 'audio')
  | {
    'txt': 'text',
    'cls': 'label',
    'json': 'json',
    'npy': 'npy',
  }
)
SUFFIXES = tuple(KEYS)
LARGEST = 500_000_000  # bytes of a file in a tar
LARGEST_TEXT = 10_000_000  # of a text
MOST = 50_000_000  # files of all tars
CAPTIONS = ('text', 'caption')


class Member(NamedTuple):
  """Where a file lies in a tar."""

  offset: int
  size: int


class Sample(NamedTuple):
  """The files of an example.

  Attributes:
    number: of the example, from 0.
    name: that its files share.
    tar: they lie in.
    members: suffix -> where it lies.
  """

  number: int
  name: str
  tar: Path
  members: dict[str, Member]

  @property
  def where(self) -> str:
    return f'{self.tar}, {self.name}'


def index(tars: Sequence[Path]) -> list[Sample]:
  """Every example of the tars, in their order; files of other suffixes and hidden ones are left out.

  Raises:
    KdjaxError: if one cannot be read, holds a link or pipe, has a name twice, or a file that is too large.
  """
  samples: list[Sample] = []
  for tar in track(tars, 'reading the tars', len(tars), 'tar'):
    by_key: dict[str, dict[str, Member]] = {}
    try:
      with tarfile.open(regular_file(tar, 'tar'), 'r:') as archive:
        for info in archive:
          _add(info, tar, by_key)
        end = archive.offset
    except (tarfile.TarError, OSError, ValueError) as e:
      reason = ' '.join(str(e).split())[:200]
      raise KdjaxError(f'{tar} is not a readable tar, not compressed ({reason}).') from e
    size = tar.stat().st_size
    if 0 < size - end < tarfile.BLOCKSIZE:  # tarfile takes half a header for the end
      raise KdjaxError(f'{tar} ends within a header: it is cut off.')
    if cut := next((n for n, m in by_key.items() if any(x.offset + x.size > size for x in m.values())), None):
      raise KdjaxError(f'{tar} ends within {cut}: it is cut off.')
    samples += [Sample(len(samples) + i, name, tar, m) for i, (name, m) in enumerate(by_key.items())]
    if len(samples) > MOST:
      raise KdjaxError(f'the tars have more than {MOST:,} examples.')
  return samples


def _add(info, tar, by_key):
  folder, _, file = info.name.rpartition('/')
  name, _, suffix = file.partition('.')
  suffix = suffix.lower().rpartition('.')[2]
  if info.isdir() or not name or '__MACOSX' in folder:
    return
  if not info.isreg():
    raise KdjaxError(
      f'{tar}: {info.name[:200]!r} is no file but a link, pipe or device; kdjax reads files alone.'
    )
  if suffix not in KEYS:
    return
  limit = LARGEST_TEXT if suffix in ('txt', 'cls', 'json') else LARGEST
  if info.size > limit or info.issparse():
    raise KdjaxError(f'{tar}: {info.name[:200]!r} has {info.size:,} bytes; at most {limit:,} are read.')
  members = by_key.setdefault(f'{folder}/{name}' if folder else name, {})
  if suffix in members:
    raise KdjaxError(f'{tar} has {info.name[:200]!r} twice.')
  members[suffix] = Member(info.offset_data, info.size)


def content(sample: Sample, suffix: str) -> bytes:
  """The bytes of a file.

  Raises:
    KdjaxError: if the tar cannot be read any more.
  """
  member = sample.members[suffix]
  try:
    with sample.tar.open('rb') as file:
      file.seek(member.offset)
      read = file.read(member.size)
  except OSError as e:
    raise KdjaxError(f'{sample.where}.{suffix} cannot be read ({e.strerror}).') from e
  if len(read) != member.size:
    raise KdjaxError(f'{sample.where}.{suffix} is cut off: the tar changed while it was read.')
  return read


def _text(sample, suffix):
  try:
    return content(sample, suffix).decode('utf-8-sig')
  except UnicodeDecodeError as e:
    raise KdjaxError(f'{sample.where}.{suffix} is not UTF-8: save it as UTF-8.') from e


def _json(sample) -> dict:
  try:
    value = json.loads(_text(sample, 'json'))
  except (ValueError, RecursionError) as e:
    raise KdjaxError(f'{sample.where}.json is no JSON ({e}).') from e
  if not isinstance(value, dict):
    raise KdjaxError(f'{sample.where}.json is a {type(value).__name__}, and no object.')
  return value


def keys(sample: Sample) -> set[str]:
  """The keys of a batch that the example has; of a .json those that stand in it, of a .npy by its shape."""
  keys = {KEYS[suffix] for suffix in sample.members} - {'json', 'npy'}
  if 'json' in sample.members and not {'text', 'label'} <= keys:
    value = _json(sample)
    keys |= {'label'} & value.keys()
    keys |= {'text'} if any(isinstance(value.get(k), str) for k in CAPTIONS) else set()
  return keys | ({'video' if 'image' in keys else 'image'} if 'npy' in sample.members else set())


def value(sample: Sample, key: str) -> Any:
  """What the example has for a key: bytes of an image or sound, a text, label or array; None without it.

  Raises:
    KdjaxError: if it cannot be read.
  """
  for suffix in sample.members:
    if KEYS[suffix] == key:
      return content(sample, suffix) if key in ('image', 'audio') else _text(sample, suffix).strip()
  if key in ('text', 'label') and 'json' in sample.members:
    parsed = _json(sample)
    return parsed.get(key) if key == 'label' else next((parsed[k] for k in CAPTIONS if k in parsed), None)
  if key in ('image', 'video') and 'npy' in sample.members and key in keys(sample):
    return numpy_arrays.read_npy(content(sample, 'npy'), f'{sample.where}.npy')
  return None
