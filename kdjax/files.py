"""Files that a person, a table or a checkpoint names, looked at before anything opens them."""

import os
import stat
from pathlib import Path

from kdjax.errors import KdjaxError

KINDS = {stat.S_IFDIR: 'a folder', stat.S_IFIFO: 'a pipe', stat.S_IFSOCK: 'a socket'}
KINDS |= {stat.S_IFCHR: 'a device', stat.S_IFBLK: 'a device'}


def regular_file(path: str | os.PathLike, what: str = 'file', most: float = float('inf')) -> Path:
  """`path`, where it is a file of bytes, links followed: to open a pipe or a device may wait for ever.

  Args:
    path: the file.
    what: it ought to be, for the message.
    most: bytes that one of its kind can have.

  Raises:
    KdjaxError: if it is a folder, pipe, device or socket, has a name that no file can have, or more bytes.
    OSError: if there is none, or it may not be read.
  """
  try:
    found = os.stat(path)
  except ValueError as e:  # a zero byte, or half a character, in its name
    raise KdjaxError(f'{os.fspath(path)!r} is the name of no file ({e}).') from e
  kind = stat.S_IFMT(found.st_mode)
  if kind != stat.S_IFREG:
    raise KdjaxError(f'{path} is {KINDS.get(kind, "no file")}, and no {what}.')
  if found.st_size > most:
    raise KdjaxError(f'{path} has {found.st_size:,} bytes, and a {what} has at most {most:,.0f}.')
  return Path(path)
