"""A hash of the content of a data set's files, the same when they are copied or moved."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

WHOLE = 5e8  # bytes of all files together up to which they are read whole
PIECE = 2**14  # bytes read otherwise at the start, the middle and the end of a file
MANY = 200_000  # files beyond which only sizes and times are read


def content(files: Iterable[Path]) -> str:
  """A hash of the files, in this order; '' for none. A missing file counts too.

  Up to `WHOLE` bytes the files are read whole, beyond it three pieces of each; of more than `MANY` files only
  size and modification time (ns), which a copy may change.
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


def marks(files: Iterable[Path]) -> list[str]:
  """A hash of the content of each file; of large ones, of its size and three pieces."""
  result = []
  for file in files:
    digest, stat = hashlib.sha256(), _stat(file)
    digest.update(str(stat and stat[0]).encode() + b'\n')
    if stat:
      _add(digest, file, stat[0], stat[0] <= 2**20)
    result.append(digest.hexdigest()[:16])
  return result


def _stat(file):
  try:
    stat = file.stat()
  except (OSError, ValueError):
    return None
  return (stat.st_size, stat.st_mtime_ns) if file.is_file() else None


def _add(digest, file, size, whole):
  try:
    with file.open('rb') as stream:
      if whole or size <= 3 * PIECE:
        while block := stream.read(1 << 22):
          digest.update(block)
        return
      for offset in (0, size // 2, size - PIECE):
        stream.seek(offset)
        digest.update(stream.read(PIECE))
  except OSError as e:
    digest.update(repr(e.errno).encode())
