"""What the files of a data set hold, as a short hash that does not change when they are copied or moved."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

WHOLE = 5e8  # bytes of all files together up to which they are read whole
PIECE = 2**14  # bytes of the start, the middle and the end of a file that are read otherwise
MANY = 200_000  # files from which their sizes and times have to do


def content(files: Iterable[Path]) -> str:
  """A hash of the files, in this order; '' for none. A file that is missing is one more content.

  Up to `WHOLE` bytes all is read, beyond it three pieces of each file; of more than `MANY` files only
  size and time of the last change (ns), which a copy may alter.
  """
  files = list(dict.fromkeys(map(Path, files)))
  if not files:
    return ''
  sizes = [_stat(file) for file in files]
  whole = sum(stat[0] for stat in sizes if stat) <= WHOLE
  digest = hashlib.sha256()
  for file, stat in zip(files, sizes, strict=True):
    if len(files) > MANY or not stat:
      digest.update(repr(stat).encode())
    else:
      digest.update(str(stat[0]).encode() + b'\n')
      _add(digest, file, stat[0], whole)
  return digest.hexdigest()[:16]


def _stat(file):
  try:
    stat = file.stat()
  except (OSError, ValueError):
    return None
  return (stat.st_size, stat.st_mtime_ns) if file.is_file() else None


def _add(digest, file, size, whole):
  try:
    with file.open('rb') as opened:
      if whole or size <= 3 * PIECE:
        while block := opened.read(1 << 22):
          digest.update(block)
        return
      for at in (0, size // 2, size - PIECE):
        opened.seek(at)
        digest.update(opened.read(PIECE))
  except OSError as e:
    digest.update(repr(e.errno).encode())
