"""Folders of class folders, with split folders above them or without: they may come from anybody."""

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kdjax.errors import KdjaxError
from kdjax.input import audio_files
from kdjax.input.table_file import SPLITS, split_name
from kdjax.runtime.files import KINDS
from kdjax.runtime.progress import say

IMAGES = {
  '.png',
  '.jpg',
  '.jpeg',
  '.jp2',
  '.gif',
  '.bmp',
  '.tif',
  '.tiff',
  '.webp',
  '.avif',
  '.ppm',
  '.pgm',
  '.tga',
}
OTHER_SOUNDS = {'.m4a', '.aac', '.wma'}
IGNORED = {'__macosx', 'thumbs.db', 'desktop.ini'}
DEEPEST = 16  # folders within folders


class Listed(NamedTuple):
  """A file of a class.

  Attributes:
    path: of the file.
    split: the name of its split folder, '' where there are none.
    label: the name of its class folder.
  """

  path: Path
  split: str
  label: str


def listed(root: Path) -> tuple[str, list[Listed]]:
  """('image' or 'audio', every file in the order of its name); files of other kinds are counted and left out.

  Raises:
    KdjaxError: if it is no folder of class folders, a link leads out of it, something in it is no file, or it
      has both images and sounds.
  """
  try:
    top = folders(root)
  except NotADirectoryError as e:
    raise KdjaxError(
      f'{root} is a file, and no folder of class folders: set data.path to the folder, or data.name=manifest '
      'for a table.'
    ) from e
  except FileNotFoundError as e:
    raise KdjaxError(f'there is no folder {root}.') from e
  except OSError as e:
    raise KdjaxError(f'cannot read the folder {root} ({e.strerror}).') from e
  splits = [name for name in top if split_name(name) in SPLITS]
  if splits and any(split_name(name) == 'train' for name in splits):
    if others := [name for name in top if name not in splits]:
      raise KdjaxError(
        f'{root} has the splits {", ".join(splits)} and beside them {others[0]!r}: a folder has split '
        'folders or class folders, not both; move it elsewhere.'
      )
    parts = [(split, root / split) for split in splits]
  else:
    parts = [('', root)]
  counts: Counter[str] = Counter()
  files = [one for split, folder in parts for one in _classes(root, split, folder, counts)]
  kinds = [kind for kind in ('image', 'audio') if any(_kind(f.path) == kind for f in files)]
  if not kinds:
    _nothing(root, top, counts)
  if len(kinds) > 1:
    pair = [next(f.path for f in files if _kind(f.path) == kind) for kind in kinds]
    raise KdjaxError(
      f'{root} has images ({pair[0].name}) and sounds ({pair[1].name}): class folders hold one kind; a table '
      'can name both (data.name=manifest).'
    )
  if counts:
    say(
      f'{root.name}: left out, as no {kinds[0]}: {", ".join(f"{n:,} {k}" for k, n in counts.most_common(5))}.'
    )
  return kinds[0], files


def folders(root: Path) -> list[str]:
  """The names of the folders in it, sorted, without hidden ones."""
  return sorted(e.name for e in os.scandir(root) if not _hidden(e.name) and e.is_dir())


def _hidden(name):
  return name.startswith('.') or name.lower() in IGNORED


def _kind(path):
  suffix = path.suffix.lower()
  return 'image' if suffix in IMAGES else 'audio' if suffix in audio_files.SUFFIXES else ''


def _classes(root, split, folder, counts) -> Iterator[Listed]:
  for name in folders(folder):
    label = unicodedata.normalize('NFC', name)
    for path in _files(root, folder / name, DEEPEST):
      if _kind(path):
        yield Listed(path, split, label)
      else:
        counts[path.suffix.lower() or path.name] += 1
  for entry in sorted(os.scandir(folder), key=lambda e: e.name):
    if not _hidden(entry.name) and not entry.is_dir():
      counts[f'{Path(entry.name).suffix.lower() or entry.name} beside the class folders'] += 1


def _files(root: Path, folder: Path, depth: int) -> Iterator[Path]:
  """Every file below a folder, in the order of names.

  Raises:
    KdjaxError: for a link out of `root`, a link to a folder, and what is neither file nor folder.
  """
  if depth == 0:
    raise KdjaxError(f'{folder} is more than {DEEPEST} folders deep.')
  if folder.is_symlink():
    raise KdjaxError(f'{folder} is a link to a folder, which kdjax does not follow: put a copy there.')
  try:
    entries = sorted(os.scandir(folder), key=lambda e: e.name)
  except OSError as e:
    raise KdjaxError(f'cannot read the folder {folder} ({e.strerror}).') from e
  for entry in entries:
    path = folder / entry.name
    if _hidden(entry.name):
      continue
    if entry.is_symlink():
      target = path.resolve()
      if not target.is_relative_to(root.resolve()):
        raise KdjaxError(f'{path} is a link out of {root}, to {target}: put a copy of the file there.')
    try:
      kind = stat.S_IFMT(entry.stat().st_mode)
    except OSError as e:
      raise KdjaxError(f'{path} cannot be read ({e.strerror}).') from e
    if kind == stat.S_IFDIR:
      yield from _files(root, path, depth - 1)
    elif kind == stat.S_IFREG:
      yield path
    else:
      raise KdjaxError(f'{path} is {KINDS.get(kind, "no file")}, and no image or sound: remove it.')


def _nothing(root, top, counts):
  """Raises KdjaxError for a folder without any image or sound in class folders."""
  others = next((k for k in counts if k.split(' ')[0] in OTHER_SOUNDS), '')
  beside = sum(n for k, n in counts.items() if k.endswith('beside the class folders'))
  if others:
    reason = f'sounds of {others.split(" ")[0]}; ffmpeg -i FILE FILE.flac makes one that kdjax reads'
  elif not top and beside:
    reason = f'{beside:,} files and no class folders: put each file into a folder with the name of its class'
  elif not top and not counts:
    reason = 'nothing'
  else:
    reason = f'{", ".join(top[:5]) or "no folders"}, and no image or sound in them'
  raise KdjaxError(
    f'{root} has {reason}; it needs class folders with images or sounds, as in {root.name}/CLASS/FILE or '
    f'{root.name}/train/CLASS/FILE; a table has data.name=manifest.'
  )
