"""Images of files and arrays as u8 [H, W, C]; docs/data.md lists the rules."""

import errno
import functools
import io
import math
import os
import threading
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdjax.errors import KdjaxError
from kdjax.runtime.files import regular_file
from kdjax.runtime.notices import note

LARGE = 2**24  # pixels of an image from which it is reduced while it is read
MOST = 2**28  # pixels that are decoded at most: 1 GB in memory
Image.MAX_IMAGE_PIXELS = None  # `MOST` says what is too large, with the file's name
_one_large = threading.Lock()  # in memory at a time
# EXIF orientation -> the transposition that makes the image upright.
TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), 2))
# Names of the ranges of arrays -> (lowest, highest).
RANGES = {'0 to 1': (0, 1), '0 to 255': (0, 255), '0 to 65535': (0, 65535), '-1 to 1': (-1, 1)}
SLACK = 1e-3  # of a range: rounding of floats


def read_image(path: Path, where: str) -> np.ndarray:
  """u8 [H, W, 3] of a file, upright as its EXIF orientation says.

  Transparency is composited over white; 16 bits and floats are scaled to 8 bits; of several frames the first
  is read; more than 2^24 pixels are reduced by a whole factor.

  Raises:
    KdjaxError: if the file is missing or no image, naming it and `where` it is named.
  """
  for name in (path, *(Path(unicodedata.normalize(form, str(path))) for form in ('NFC', 'NFD'))):
    try:
      return _read(regular_file(name, 'image'), f'{where}: {path}')
    except KdjaxError as e:
      raise e if str(e).startswith(where) else KdjaxError(f'{where}: {e}') from e
    except OSError as e:
      if e.errno not in (errno.ENOENT, errno.ENOTDIR):
        raise KdjaxError(f'{where}: {path} is not a readable image ({e.strerror}).') from e
  hint = '; download it first' if str(path).partition(':')[0] in ('http', 'https') else ''
  raise KdjaxError(f'{where}: there is no image {path}{hint}.')


def from_source(source: Path | bytes, where: str) -> np.ndarray:
  """`read_image` of a file, or `decode_image` of its content."""
  return read_image(source, where) if isinstance(source, Path) else decode_image(source, where)


def decode_image(content: bytes, where: str) -> np.ndarray:
  """u8 [H, W, 3] of an encoded image, by the rules of `read_image`.

  Raises:
    KdjaxError: if it is no image.
  """
  return _read(io.BytesIO(content), where)


def read_frames(source: Path | bytes, where: str, chosen: Callable[[int], Iterable[int]]) -> np.ndarray:
  """u8 [T, H, W, 3] of an image of several frames or pages, such as an animated GIF: of `chosen(count)`.

  Raises:
    KdjaxError: if it is no image.
  """

  def frames(image):
    if image.width * image.height > LARGE:
      raise KdjaxError(f'has {image.width}×{image.height} pixels a frame, more than {LARGE:,}.')
    converted = []
    for index in chosen(getattr(image, 'n_frames', 1)):
      image.seek(int(index))
      converted.append(_convert(image.copy()))
    return np.stack(converted)

  try:
    file = io.BytesIO(source) if isinstance(source, bytes) else regular_file(source, 'video')
  except OSError as e:
    raise KdjaxError(f'{where}: cannot read the video {source} ({e.strerror}).') from e
  return _read(file, where, frames)


def _read(file, where, convert=None):
  try:
    with Image.open(file, formats=_formats()) as image:
      return (convert or _rgb)(image)
  except KdjaxError as e:
    raise KdjaxError(f'{where} {e}') from e
  except UnidentifiedImageError as e:
    raise KdjaxError(f'{where} is not a readable image (of no format that Pillow knows).') from e
  except (Exception, Image.DecompressionBombError) as e:  # decoders raise all sorts
    reason = ' '.join(str(e).split())[:200] or type(e).__name__
    raise KdjaxError(f'{where} is not a readable image ({reason}).') from e


@functools.cache
def _formats():
  """The formats that Pillow reads without starting other programs, as it does for EPS and WMF."""
  names = (
    'PNG',
    'JPEG',
    'JPEG2000',
    'MPO',
    'GIF',
    'BMP',
    'DIB',
    'TIFF',
    'WEBP',
    'AVIF',
    'PPM',
    'TGA',
    'ICO',
  )
  Image.init()
  return [name for name in names if name in Image.OPEN]


def _rgb(image):
  """u8 [H, W, 3] of an opened image."""
  if getattr(image, 'is_animated', False):
    note('an image of several frames or pages, of which the first is read')
  excess = image.width * image.height / LARGE
  if excess <= 1:
    return _convert(image)
  note(f'an image of more than {LARGE:,} pixels, reduced while it is read')
  with _one_large:
    side = excess**0.5
    image.draft(None, (int(image.width / side), int(image.height / side)))  # JPEG decodes at 1/2, 1/4 or 1/8
    if image.width * image.height > MOST:
      raise KdjaxError(f'has {image.width}×{image.height} pixels, more than {MOST:,}: make it smaller.')
    return _convert(image, math.ceil((image.width * image.height / LARGE) ** 0.5))


def _convert(image, factor=1):
  """u8 [H, W, 3], each side divided by a whole factor."""
  image.load()
  transpose = TURNS.get(_orientation(image))
  has_alpha = image.mode in ('LA', 'PA', 'La', 'RGBA', 'RGBa') or (
    image.mode in ('1', 'L', 'P', 'RGB') and 'transparency' in image.info
  )
  if image.mode == 'F' or image.mode.startswith('I'):
    image = _eight_bits(image)
  elif has_alpha:
    image = _over_white(image.convert('RGBA'))
  else:
    image = image.convert('L' if image.mode == '1' else 'RGB')
  image = image.reduce(factor) if factor > 1 else image
  return np.asarray((image if transpose is None else image.transpose(transpose)).convert('RGB'))


def _orientation(image) -> Any:
  """The EXIF orientation: 1 to 8, None or garbage."""
  try:
    return image.getexif().get(0x0112)
  except Exception:  # damaged EXIF data raise all sorts
    return None


def _over_white(image):
  """RGBA over white; where every pixel is transparent, alpha is dropped."""
  low, high = image.getchannel('A').getextrema()
  if not high:
    return image.convert('RGB')
  if low == 255:
    return image.convert('RGB')
  note('an image with transparency, composited over white')
  white = Image.new('RGBA', image.size, (255, 255, 255, 255))
  return Image.alpha_composite(white, image).convert('RGB')


def _eight_bits(image):
  """16 or 32 bits, or floats, as mode L: Pillow's own conversion would clip."""
  values = np.asarray(image)
  if image.mode.startswith('I;16') or image.format == 'PNG':  # older Pillow reads a 16-bit PNG as mode I
    return Image.fromarray(np.round(values.astype(np.float64) / 257).astype(np.uint8))
  low, high = (float(f(values)) for f in (np.min, np.max))
  name = range_name(values.dtype, low, high)
  if name not in ('0 to 255', '0 to 1') or (image.mode == 'I' and high > 255):
    raise KdjaxError(
      f'has {"floats" if image.mode == "F" else "32-bit integers"} from {low:g} to {high:g}: floats are read '
      'from 0 to 1 or from 0 to 255, 32-bit integers from 0 to 255; save it with 8 or 16 bits.'
    )
  scale = 255 if image.mode == 'F' and name == '0 to 1' else 1
  return Image.fromarray(np.round(np.clip(values * scale, 0, 255)).astype(np.uint8))


def resize(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
  """u8 or f32 [H, W, C] to a square of `size`, or to (height, width), bicubic."""
  height, width = size if isinstance(size, tuple) else (size, size)
  if image.shape[:2] == (height, width):
    return image
  channels = [
    np.asarray(Image.fromarray(image[..., c]).resize((width, height), Image.Resampling.BICUBIC))
    for c in range(image.shape[-1])
  ]
  resized = np.stack(channels, -1)
  return (
    resized if resized.dtype == np.uint8 else resized.clip(image.min(), image.max())
  )  # bicubic overshoots


def is_image(key: str) -> bool:
  """Whether a batch key may hold pixels."""
  return key.partition('_')[0] == 'image' and '/' not in key


def has_pixels(key: str, value: Any, resized: bool = False) -> bool:
  """Whether an example's value is an image, [H, W, C] or of whole numbers [H, W]; others are features.

  With `resized` it has to be one.
  """
  value = np.asarray(value)
  return is_image(key) and (resized or value.ndim == 3 or (value.ndim == 2 and value.dtype.kind in 'iub'))


def range_name(dtype: Any, low: float, high: float) -> str:
  """Which of `RANGES` values are in, '' for none of them; integers of 0 and 1 alone are '0 to 1'."""
  whole = np.dtype(dtype).kind in 'iub'
  names = ('0 to 1', '0 to 255', '0 to 65535') if whole else ('0 to 1', '0 to 255', '-1 to 1')
  for name in names:
    least, most = RANGES[name]
    slack = 0 if whole else SLACK * (most - least)
    if least - slack <= low and high <= most + slack:
      return name
  return ''


def range_of(key: str, arrays: Any) -> str:
  """The range that the values of a split's images are in, from a sample of them; '' for bytes and others.

  Raises:
    KdjaxError: for integers beyond 16 bits.
  """
  arrays = [np.asarray(x) for x in arrays]
  if all(x.dtype == np.uint8 for x in arrays):
    return ''
  low, high = float(min(x.min() for x in arrays)), float(max(x.max() for x in arrays))
  kind = arrays[0].dtype
  name = range_name(kind, low, high)
  if not name and kind.kind in 'iu':
    raise KdjaxError(
      f'{key!r} is {kind} from {low:g} to {high:g}; integers of images are read from 0 to 255 or from 0 to '
      '65535.'
    )
  return name


def pixels(key: str, array: Any, scale: str, where: str = 'an example') -> np.ndarray:
  """An example's image u8, or f32 in [-1, 1] where it is of floats; a grey [H, W] becomes [H, W, 1].

  Args:
    key: of the batch.
    array: [H, W] or [H, W, C].
    scale: one of `RANGES`; '' leaves floats as they are.
    where: names the example in an error.

  Raises:
    KdjaxError: for another rank, channels that come first, and values beyond the range.
  """
  array = np.asarray(array)
  array = array[..., None] if array.ndim == 2 else array
  if array.ndim != 3 or array.dtype.kind not in 'iufb':
    raise KdjaxError(
      f'{where}: {key!r} is {array.dtype} {list(array.shape)}; an image is numbers [height, width, channels].'
    )
  channels, *sides = array.shape
  if min(sides) > 4 and (channels == 3 or (channels == 1 and sides[0] == sides[1])):
    raise KdjaxError(
      f'{where}: {key!r} is {list(array.shape)}: the channels come last, [height, width, channels].'
    )
  if array.dtype == np.uint8:
    return array
  if array.dtype == bool:
    return array.astype(np.uint8) * 255
  whole = array.dtype.kind in 'iu'
  if not whole:
    array = array.astype(np.float32)
  if not scale and whole:
    raise KdjaxError(f'{where}: {key!r} is {array.dtype}, and those of the other examples are bytes.')
  if not scale:
    return array
  low, high = RANGES[scale]
  slack = 0 if whole else SLACK * (high - low)
  if array.size and not (low - slack <= array.min() and array.max() <= high + slack):
    raise KdjaxError(
      f'{where}: {key!r} is {array.dtype} from {array.min():g} to {array.max():g}, and those of the other '
      f'examples are from {low} to {high}.'
    )
  if whole:
    return np.round(array * (255 / high)).astype(np.uint8) if high != 255 else array.astype(np.uint8)
  return array if low == -1 else np.clip(array, low, high) * np.float32(2 / high) - 1


@functools.cache
def _threads():
  return ThreadPoolExecutor(os.cpu_count() or 1, 'decode')


def in_threads(function: Callable, items: Iterable) -> list:
  """`[function(x) for x in items]`, in threads, one a core, for functions that release the GIL.

  The function may not call this itself.
  """
  return list(_threads().map(function, items))
