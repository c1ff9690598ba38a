"""UTD-MHAD: 27 actions of eight people as depth video, skeleton and wrist sensor (Chen et al., 2015)."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat

from kdjax.errors import KdjaxError
from kdjax.input import images, numpy_arrays
from kdjax.options import Count
from kdjax.runtime import files
from kdjax.runtime.progress import say, track
from kdjax.types import DataSet

NAMES = [
  'swipe left',
  'swipe right',
  'wave',
  'clap',
  'throw',
  'cross arms',
  'basketball shoot',
  'draw x',
  'draw circle clockwise',
  'draw circle counter clockwise',
  'draw triangle',
  'bowling',
  'boxing',
  'baseball swing',
  'tennis swing',
  'arm curl',
  'tennis serve',
  'push',
  'knock',
  'catch',
  'pick up and throw',
  'jog in place',
  'walk in place',
  'sit to stand',
  'stand to sit',
  'lunge',
  'squat',
]
SHAPES = {'video': (16, 48, 48), 'skeleton': (32, 60), 'inertial': (96, 6)}
FILE = re.compile(r'a(\d+)_s(\d+)_t(\d+)_(depth|skeleton|inertial)\.mat')
VARIABLES = {'depth': 'd_depth', 'skeleton': 'd_skel', 'inertial': 'd_iner'}
HIP, SPINE = 3, 2  # joints of the Kinect's twenty: head, neck, spine, hip, ...
AXES = {'depth': (0, 0, 0), 'skeleton': (20, 3, 0), 'inertial': (0, 6)}  # 0 for any size
LARGEST = 200_000_000  # bytes of a .mat file
MOST = 100_000_000  # numbers in it


def resampled(x: np.ndarray, length: int) -> np.ndarray:
  """[T, F] at `length` evenly spaced times, between which it is linear."""
  at = np.linspace(0, len(x) - 1, length)
  low = np.floor(at).astype(int)
  high, part = np.minimum(low + 1, len(x) - 1), (at - low)[:, None]
  return (x[low] * (1 - part) + x[high] * part).astype(np.float32)


def skeleton(joints: np.ndarray) -> np.ndarray:
  """f32 [32, 60] of joints [20, 3, T], from the hip of each frame, in lengths of the spine."""
  x = np.moveaxis(joints.astype(np.float64), -1, 0)
  x = x - x[:, HIP : HIP + 1]
  x = x / max(float(np.median(np.linalg.norm(x[:, SPINE], axis=-1))), 1e-6)
  return resampled(x.reshape(len(x), -1), SHAPES['skeleton'][0])


def depth_video(depth: np.ndarray) -> np.ndarray:
  """u8 [16, 48, 48] of depths [H, W, T] in mm, 0 where nobody is: the person's square, the nearest white."""
  frames, side = SHAPES['video'][:2]
  person = depth > 0
  rows, columns = np.flatnonzero(person.any((1, 2))), np.flatnonzero(person.any((0, 2)))
  if not len(rows):
    return np.zeros(SHAPES['video'], np.uint8)
  height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
  square = np.zeros((max(height, width),) * 2, np.uint8)
  low, high = np.percentile(depth[person], (1, 99))
  video = []
  for t in np.linspace(0, depth.shape[-1] - 1, frames).round().astype(int):
    frame = depth[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, t].astype(np.float64)
    near = np.clip((high - frame) / max(high - low, 1), 0, 1)
    top, left = (len(square) - height) // 2, (len(square) - width) // 2
    square[:] = 0
    square[top : top + height, left : left + width] = np.where(frame > 0, 55 + 200 * near, 0)
    video.append(images.resize(np.repeat(square[..., None], 3, -1), side)[..., 0])
  return np.stack(video)


def read_mat(path: Path) -> np.ndarray:
  """The one array of a .mat file of the set.

  Raises:
    KdjaxError: if it cannot be read, or has no such array.
  """
  kind = path.stem.rpartition('_')[2]
  variable, axes = VARIABLES[kind], AXES[kind]
  try:
    files.regular_file(path, 'recording', LARGEST)
    shapes = {name: shape for name, shape, _ in whosmat(path)}
    shape = shapes.get(variable, ())
    fits = len(shape) == len(axes) and all(n in (0, size) for n, size in zip(axes, shape, strict=True))
    if not all(shape) or not fits or math.prod(shape) > MOST:
      raise ValueError(f'{variable} is {list(shape)}, and not [{", ".join(str(n or "T") for n in axes)}]')
    return np.asarray(loadmat(path, variable_names=[variable])[variable])
  except Exception as e:  # scipy raises many kinds for a damaged file
    raise KdjaxError(f'cannot read the {kind} of {path} ({files.first_line(e) or type(e).__name__}).') from e


def from_folder(folder: Path) -> dict[str, np.ndarray]:
  """The arrays of a folder of the authors' .mat files, at any depth.

  Raises:
    KdjaxError: if it has none, or a file is damaged.
  """
  clips: dict[tuple, dict[str, Path]] = {}
  for path in sorted(folder.rglob('a*_s*_t*_*.mat')):
    if match := FILE.fullmatch(path.name):
      clips.setdefault(tuple(int(n) for n in match.groups()[:3]), {})[match[4]] = path
  kinds = [k for k in VARIABLES if clips and all(k in paths for paths in clips.values())]
  for kind in {k for paths in clips.values() for k in paths} - set(kinds):
    say(f'utd_mhad: some clip of {folder} has no {kind}, which is left out of all.')
  if not kinds:
    raise KdjaxError(f'utd_mhad: {folder} has no a1_s1_t1_skeleton.mat and the like, or none of every clip.')
  makes = {'depth': ('video', depth_video), 'skeleton': ('skeleton', skeleton)}
  makes['inertial'] = 'inertial', lambda x: resampled(x, SHAPES['inertial'][0])
  arrays = {makes[k][0]: [] for k in kinds}
  for _, paths in track(sorted(clips.items()), 'reading utd_mhad', len(clips)):
    for kind in kinds:
      name, make = makes[kind]
      arrays[name].append(make(read_mat(paths[kind])))
  action, subject, trial = (np.array(x, np.int32) for x in zip(*sorted(clips), strict=True))
  stacked = {k: np.stack(v) for k, v in arrays.items()}
  return stacked | {'label': action - 1, 'subject': subject, 'trial': trial}


def check(arrays: Mapping[str, np.ndarray], path: Path) -> None:
  """Raises KdjaxError for arrays of another set."""
  for key in ('label', 'subject', *SHAPES):
    if key not in arrays and key not in SHAPES:
      raise KdjaxError(f'utd_mhad: {path} has {", ".join(arrays)}, and no {key!r}.')
    x, shape = arrays.get(key), SHAPES.get(key, ())
    if x is not None and x.shape != (arrays['label'].size, *shape):
      expected = f'[{arrays["label"].size}{"".join(f", {n}" for n in shape)}]'
      raise KdjaxError(f'utd_mhad: {key!r} of {path} is {list(x.shape)}, and not {expected}.')
  if not SHAPES.keys() & arrays.keys():
    raise KdjaxError(f'utd_mhad: {path} has {", ".join(arrays)}, and none of {", ".join(SHAPES)}.')
  labels = arrays['label']
  if arrays['subject'].dtype.kind not in 'iu':
    raise KdjaxError(f'utd_mhad: the subjects of {path} are not whole numbers.')
  for key in SHAPES.keys() & arrays.keys():
    if arrays[key].dtype.kind not in ('u' if key == 'video' else 'f'):
      raise KdjaxError(
        f'utd_mhad: {key!r} of {path} is {arrays[key].dtype}: a video is of bytes, others of floats.'
      )
  if labels.dtype.kind not in 'iu' or not len(labels) or labels.min() < 0 or labels.max() >= len(NAMES):
    raise KdjaxError(f'utd_mhad: the labels of {path} are not whole numbers from 0 to {len(NAMES) - 1}.')


class Clips(Sequence):
  """The clips of some people."""

  def __init__(self, arrays: Mapping[str, np.ndarray], rows: np.ndarray, people: Sequence[int]):
    self.arrays, self.rows, self.people = arrays, rows, list(people)

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index):
    row = int(self.rows[index])
    example = {k: self.arrays[k][row] for k in SHAPES if k in self.arrays}
    domain = self.people.index(int(self.arrays['subject'][row]))
    return example | {'label': int(self.arrays['label'][row]), 'domain': domain, 'id': row}


def utd_mhad(
  *,
  path: str = '',
  train_subjects: tuple[Count, ...] = (1, 3, 5, 7),
  validation_subjects: tuple[Count, ...] = (),
) -> DataSet:
  """`video` u8 [16, 48, 48, 1], `skeleton` f32 [32, 60] and `inertial` f32 [96, 6] of 861 clips, 27 actions.

  UTD-MHAD (Chen, Jafari and Kehtarnavaz, ICIP 2015), for research. The published protocol trains on people
  1, 3, 5 and 7 and tests on the others; 'domain' is the person. The skeleton is in lengths of
  the spine, from the hip; the sensor in g and degrees a second. Clips are resampled to these lengths.

  Args:
    path: the folder of the authors' .mat files, or a .npz of arrays `video`, `skeleton`, `inertial`, `label`,
      `subject` of these shapes, a row a clip; either may lack modalities.
    train_subjects: the people to train on.
    validation_subjects: of those, the people to validate on instead; the test has all who are not in
      `train_subjects`.

  Raises:
    KdjaxError: for another kind of file, people who are in no clip, or a split without any.
  """
  if not path:
    raise KdjaxError('utd_mhad: set --config.data.path to the folder of its .mat files, or to a .npz.')
  source = Path(path)
  if source.is_dir():
    arrays, content = from_folder(source), tuple(sorted(source.rglob('*.mat')))
  else:
    arrays, content = numpy_arrays.read_npz(source, 'file of arrays', 100), (source,)
  check(arrays, source)
  people = sorted({int(s) for s in arrays['subject']})
  for person in (*train_subjects, *validation_subjects):
    if person not in people or (person in validation_subjects and person not in train_subjects):
      raise KdjaxError(f'utd_mhad: no person {person} {"to train on" if person in people else "in " + path}.')
  of_split = {
    'train': [p for p in train_subjects if p not in validation_subjects],
    'validation': list(validation_subjects),
    'test': [p for p in people if p not in train_subjects],
  }
  rows = {s: np.flatnonzero(np.isin(arrays['subject'], p)) for s, p in of_split.items() if p}
  if 'test' not in rows or 'train' not in rows:
    raise KdjaxError('utd_mhad: somebody has to be left to train on, and somebody for the test.')
  arrays = dict(arrays)
  if 'video' in arrays:
    arrays['video'] = arrays['video'][..., None]
  splits = {s: Clips(arrays, r, people) for s, r in rows.items()}
  mark = files.fingerprint('utd_mhad', of_split, sorted(arrays))
  domains = tuple(f'subject {p}' for p in people)
  return DataSet(splits, tuple(NAMES), mark, 'research only', domains=domains, files=content)
