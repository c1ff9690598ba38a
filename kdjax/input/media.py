"""Cells of a table, or members of a tar, as arrays: images, sounds, videos and texts, some missing."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import images, numpy_arrays
from kdjax.input.audio_files import Sounds
from kdjax.input.table_file import is_missing, read_name, read_text
from kdjax.runtime import files

MODALITIES = ('image', 'text', 'audio', 'video')
GREY = 128  # of an image that is missing: 0 where pixels are from -1 to 1
FRAMES = 4096  # of a video at most


class Media(NamedTuple):
  """How cells become arrays.

  Attributes:
    folder: that names of files are relative to.
    sounds: how sounds are read, None where there are none.
    frames: of a video, evenly spaced; 0 for all.
    blanks: modality -> what stands for a missing one; each has '<modality>/present' in every example.
    arrays: the names of inputs that are arrays of numbers.
    length: of arrays [L, F], which are cut or filled up with zeros, and get '<name>/mask'; 0 for their own.
  """

  folder: Path
  sounds: Sounds | None = None
  frames: int = 0
  blanks: Mapping[str, Any] = {}
  arrays: tuple[str, ...] = ()
  length: int = 0

  def read(self, key: str, value: Any, where: str, column: str) -> dict[str, Any]:
    """'<key>', of an array of several lengths '<key>/mask', and where some example lacks it '<key>/present'.

    Raises:
      KdjaxError: for a cell that cannot be read.
    """
    absent = key in self.blanks and is_absent(value)
    array = self.blanks[key] if absent else self.array(key, value, where, column)
    present = {f'{key}/present': np.float32(not absent)} if key in self.blanks else {}
    if key not in self.arrays or not self.length or array.ndim != 2:
      return {key: array} | present
    fitted, mask = fit_sequence(array, self.length)
    return {key: fitted, f'{key}/mask': mask & (not absent)} | present

  def array(self, key: str, value: Any, where: str, column: str) -> Any:
    """A text, or the array of an image, sound or video."""
    if key == 'text':
      return read_text(value, where, column)
    if key == 'video':
      return self.video(value, where, column)
    if key in self.arrays:
      return self.numbers(value, where, column)
    source = self.source(value, where, column)
    if key == 'audio':
      assert self.sounds is not None  # a table with sounds has them
      return self.sounds.read(source, where)
    if isinstance(source, bytes):
      return images.decode_image(source, where)
    return images.read_image(source, where)

  def source(self, value: Any, where: str, column: str) -> Path | bytes:
    """The file that a cell names, or the bytes that it holds: {'bytes', 'path'} of Parquet too."""
    if isinstance(value, Mapping) and {'bytes', 'path'} & value.keys():
      value = value.get('path') if value.get('bytes') is None else value['bytes']
    return value if isinstance(value, bytes) else self.folder / read_name(value, where, column)

  def numbers(self, value: Any, where: str, column: str) -> np.ndarray:
    """f32 of a list of numbers, which may be written as JSON, or of a .npy file.

    Raises:
      KdjaxError: if it is neither, or a number is not finite.
    """
    try:
      value = files.parse(value) if isinstance(value, str) and value.lstrip().startswith('[') else value
      listed = isinstance(value, list | tuple)
      array = np.asarray(value) if listed else self._npy(value, where, column)
    except ValueError as e:
      raise KdjaxError(
        f'{where}: {column!r} is no list of numbers, or of lists of one length ({files.first_line(e)}).'
      ) from e
    if array.dtype.kind not in 'iuf' or not array.size or not np.isfinite(array).all():
      raise KdjaxError(f'{where}: {column!r} is no array of finite numbers.')
    return array.astype(np.float32)

  def _npy(self, value, where, column):
    source = self.source(value, where, column)
    return numpy_arrays.read_npy(source, f'{where}, {source}' if isinstance(source, Path) else where)

  def video(self, value: Any, where: str, column: str) -> np.ndarray:
    """u8 [T, H, W, C] of a list of images, a .npy or .npz file, or an image of several frames.

    Raises:
      KdjaxError: if it is none of these, or the frames differ in size.
    """
    if isinstance(value, list | tuple):
      chosen = spread(len(value), self.frames, where)
      frames = [self.array('image', value[i], where, column) for i in chosen]
      if len({f.shape for f in frames}) != 1:
        raise KdjaxError(f'{where}: the frames of {column!r} are of different sizes, or there is none.')
      return np.stack(frames)
    source = self.source(value, where, column)
    if isinstance(source, Path) and source.suffix.lower() in ('.npy', '.npz'):
      video = _frames_of(source, where)
      return video[spread(len(video), self.frames, where)]
    return images.read_frames(source, where, lambda n: spread(n, self.frames, where))


def fit_sequence(x: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
  """([length, F] of a sequence [L, F], cut or filled up with zeros, which positions are of it)."""
  fitted, n = np.zeros((length, x.shape[1]), np.float32), min(len(x), length)
  fitted[:n] = x[:n]
  return fitted, np.arange(length) < n


def spread(count: int, wanted: int, where: str) -> np.ndarray:
  """Which of `count` frames to take: `wanted` evenly spaced, all for 0; of fewer, some several times."""
  if not 0 < count <= FRAMES:
    raise KdjaxError(f'{where}: a video has 1 to {FRAMES:,} frames, and this one has {count:,}.')
  return np.linspace(0, count - 1, wanted or count).round().astype(int)


def _frames_of(path: Path, where: str) -> np.ndarray:
  if path.suffix.lower() == '.npy':
    video = numpy_arrays.read_npy(path, where)
  else:
    arrays = numpy_arrays.read_npz(path, 'video', 1000)
    if len(arrays) != 1:
      raise KdjaxError(f'{where}: {path} has the arrays {", ".join(arrays)}; a video is one array of frames.')
    video = next(iter(arrays.values()))
  if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] not in (1, 3):
    raise KdjaxError(
      f'{where}: {path} is {video.dtype} {list(video.shape)}; a video is uint8 [frames, height, width, 3].'
    )
  return video


def is_absent(value: Any) -> bool:
  """Whether a cell has no image, text, sound or video."""
  if isinstance(value, Mapping):
    return is_absent(value.get('bytes')) and is_absent(value.get('path'))
  if isinstance(value, list | tuple | bytes):
    return not value
  return is_missing(value)


def absent(
  rows: Sequence[Mapping],
  columns: Mapping[str, str],
  where: Callable[[Mapping], str],
  arrays: Sequence[str] = (),
) -> dict[str, int]:
  """Modality -> how many rows lack it, of those that some row lacks.

  Raises:
    KdjaxError: for a row that lacks all, where there are several.
  """
  keys = [k for k in columns if k in MODALITIES or k in arrays]
  if len(keys) < 2:
    return {}
  counts = dict.fromkeys(keys, 0)
  for row in rows:
    missing = [k for k in keys if is_absent(row.get(columns[k]))]
    if len(missing) == len(keys):
      empty = ', '.join(repr(columns[k]) for k in keys)
      raise KdjaxError(f'{where(row)}: {empty} are all empty: fill one, or leave the row out.')
    for key in missing:
      counts[key] += 1
  return {k: n for k, n in counts.items() if n}
