"""Files: looked at before they are opened, written whole or not at all; JSON with a checksum and a schema."""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdjax.errors import KdjaxError

LARGEST = 100_000_000  # bytes of a JSON file
CHECKSUM = 'kdjax_checksum'  # the key that `write_json` adds
NUMBER = (int, float)
PART = re.compile(r'\..+\.(\d+)')  # what `swapped_in` writes
ORPHANED = 3600.0  # seconds after which a part is one that nobody finishes, also not on another host
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
    status = os.stat(path)
  except ValueError as e:  # a zero byte, or half a character, in its name
    raise KdjaxError(f'{os.fspath(path)!r} is the name of no file ({e}).') from e
  kind = stat.S_IFMT(status.st_mode)
  if kind != stat.S_IFREG:
    raise KdjaxError(f'{path} is {KINDS.get(kind, "no file")}, and no {what}.')
  if status.st_size > most:
    raise KdjaxError(f'{path} has {status.st_size:,} bytes, and a {what} has at most {most:,.0f}.')
  return Path(path)


def user_path(path: str | os.PathLike) -> Path:
  """An absolute path, with '~' and '~name' put in.

  Raises:
    KdjaxError: for a name that is no user's, and where the current folder has been deleted.
  """
  try:
    return Path(path).expanduser().absolute()
  except RuntimeError as e:
    raise KdjaxError(f'{path}: there is no user {Path(path).parts[0][1:]!r}; give a whole path.') from e
  except OSError as e:
    raise KdjaxError(f'{path}: the current folder is gone; change to one that exists.') from e


@contextmanager
def swapped_in(path: Path) -> Iterator[Path]:
  """A file to write beside `path`, which takes its place when it is whole and on the disk."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    yield part
    with part.open('rb+') as file:
      os.fsync(file.fileno())
    os.replace(part, path)
  except OSError as e:
    e.filename = e.filename or str(path)
    raise
  finally:
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)


def clear_parts(folder: Path, mine: bool) -> None:
  """Deletes what `swapped_in` left where its process was killed.

  Args:
    folder: with all that is below it where it is `mine`.
    mine: whether no other process may be writing there; else only parts of the last hour's dead are deleted.
  """
  for part in folder.rglob('.*') if mine else folder.glob('.*'):
    if not (match := PART.fullmatch(part.name)) or int(match[1]) == os.getpid():
      continue
    with contextlib.suppress(OSError):
      if part.is_file() and (mine or time.time() - part.stat().st_mtime > ORPHANED):
        part.unlink()


def write(path: Path, text: str) -> None:
  """Swaps a whole text file in, so that nobody ever reads half of one; one that says the same is left.

  Raises:
    OSError: where it cannot be written.
  """
  with contextlib.suppress(OSError):
    if path.read_bytes() == text.encode():
      return
  with swapped_in(path) as part:
    part.write_text(text, encoding='utf-8', newline='\n')


def checksum(value: Any) -> str:
  """Of plain JSON: the same for any order of keys and any white space."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def sealed(value: Any) -> Any:
  """As plain JSON, a dict with its checksum as the last key."""
  plain = json.loads(json.dumps(value, default=str))
  if isinstance(plain, dict):
    plain.pop(CHECKSUM, None)
    plain[CHECKSUM] = checksum(plain)
  return plain


def unsealed(value: Any) -> Any:
  """What was sealed; a value without a checksum as it is. Raises ValueError where it is another."""
  if isinstance(value, dict) and CHECKSUM in value and value.pop(CHECKSUM) != checksum(value):
    raise ValueError('its checksum is another')
  return value


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
  """Swaps JSON in; a dict gets a last key, `CHECKSUM`, which `read_json` compares and takes out."""
  write(path, json.dumps(sealed(value), indent=indent) + '\n')


def read_json(path: Path, schema: Any, anew: str, missing: Any = None) -> Any:
  """The content of a JSON file, as `schema` says it has to be.

  Args:
    path: the file. One without a checksum, as of an earlier version or another program, is read too.
    schema: as `misfit` takes it.
    anew: what a person does where the file is damaged, in the error.
    missing: what is given back where there is no file; None where that is an error too.

  Raises:
    KdjaxError: if it cannot be read, is damaged or of another kind.
  """
  if missing is not None and not path.exists():
    return missing
  try:
    value = unsealed(parse(regular_file(path, 'JSON file', LARGEST).read_bytes()))
    if wrong := misfit(value, schema):
      raise ValueError(wrong)
  except (OSError, ValueError, KdjaxError) as e:
    why = (e.strerror if isinstance(e, OSError) else '') or ' '.join(str(e).split())[:200]
    raise KdjaxError(f'cannot read {path} ({why}): {anew}.') from e
  return value


def parse(text: str | bytes) -> Any:
  """JSON; raises ValueError alone, whatever is wrong with it."""
  if not text.strip():
    raise ValueError('it is empty')
  try:
    return json.loads(text)
  except RecursionError as e:
    raise ValueError('it is nested too deeply') from e


def misfit(value: Any, schema: Any, name: str = 'it') -> str:
  """What of plain JSON is not as the schema says, '' where all is.

  Args:
    value: of a file.
    schema: a type, or a tuple of types; `[schema]` of the items of a list; `{key: schema}` of the values of a
      dict, which may have others too and may lack 'key?'; `{str: schema}` of all its values.
    name: of the value, in what is said.
  """
  if isinstance(schema, Mapping):
    if not isinstance(value, dict):
      return f'{name} is {_short(value)}, and not a dict'
    of = {k: schema[str] for k in value} if str in schema else schema
    for key, inner in of.items():
      bare = key if str in schema else key.removesuffix('?')
      if bare not in value and bare == key:
        return f'{name} has no {key!r}'
      if bare in value and (wrong := misfit(value[bare], inner, repr(bare))):
        return wrong
    return ''
  if isinstance(schema, list):
    if not isinstance(value, list):
      return f'{name} is {_short(value)}, and not a list'
    return next((wrong for x in value if (wrong := misfit(x, schema[0], f'an item of {name}'))), '')
  types = schema if isinstance(schema, tuple) else (schema,)
  if object in types or isinstance(value, types) and (bool in types or not isinstance(value, bool)):
    return ''
  return f'{name} is {_short(value)}, and not {" or ".join(t.__name__ for t in types)}'


def _short(value):
  if isinstance(value, (dict, list)):
    return f'a {type(value).__name__} of {len(value)}'
  return repr(value)[:60]


def first_line(error: Exception) -> str:
  full = getattr(error, 'errno', 0) in (errno.ENOSPC, errno.EDQUOT) or 'RESOURCE_EXHAUSTED' in str(error)
  return 'the disk is full' if full else (str(error).strip() or type(error).__name__).split('\n')[0][:200]


def fingerprint(*parts: Any) -> str:
  """A short hash of the `repr` of the parts."""
  return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
