"""Files: checked before they are opened, written atomically; JSON with a checksum and a schema."""

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
ORPHANED = 3600.0  # seconds after which an unfinished part is deleted, also one of another host
REMOTE = re.compile(r'(?!https?:)[A-Za-z][A-Za-z0-9+.-]+:/+')  # gs://, s3://; also as Path('gs://b/c') has it
KINDS = {stat.S_IFDIR: 'a folder', stat.S_IFIFO: 'a pipe', stat.S_IFSOCK: 'a socket'}
KINDS |= {stat.S_IFCHR: 'a device', stat.S_IFBLK: 'a device'}


def regular_file(path: str | os.PathLike, what: str = 'file', most: float = float('inf')) -> Path:
  """`path`, where it is a regular file, links followed: to open a pipe or a device may block for ever.

  Args:
    path: the file.
    what: what it should be, for the message.
    most: the largest size in bytes.

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


def check_local(path: str | os.PathLike, key: str = '') -> None:
  """Raises KdjaxError for a path in a bucket or another remote store; `key` says what it is of."""
  if REMOTE.match(text := os.fspath(path)):
    raise KdjaxError(
      f'{key}{": " if key else ""}{text} is on no disk of this machine, and kdjax uses no other: copy it, '
      'or mount its bucket (gcsfuse, mount-s3) and give the folder; a workdir needs one that can rename.'
    )


def user_path(path: str | os.PathLike) -> Path:
  """An absolute path, with '~' and '~name' expanded.

  Raises:
    KdjaxError: for a name that is no user's, a path in a bucket, and where the current folder is gone.
  """
  check_local(path)
  try:
    return Path(path).expanduser().absolute()
  except RuntimeError as e:
    raise KdjaxError(f'{path}: there is no user {Path(path).parts[0][1:]!r}; give a whole path.') from e
  except OSError as e:
    raise KdjaxError(f'{path}: the current folder is gone; change to one that exists.') from e


@contextmanager
def swapped_in(path: Path) -> Iterator[Path]:
  """A file to write beside `path`, which replaces it when it is complete and on the disk."""
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
  """Deletes the parts that killed processes left of `swapped_in`.

  Args:
    folder: where they lie, also below it where it is `mine`.
    mine: whether no other process may be writing there; else only parts older than an hour are deleted.
  """
  for part in folder.rglob('.*') if mine else folder.glob('.*'):
    if not (match := PART.fullmatch(part.name)) or int(match[1]) == os.getpid():
      continue
    with contextlib.suppress(OSError):
      if part.is_file() and (mine or time.time() - part.stat().st_mtime > ORPHANED):
        part.unlink()


def write(path: Path, text: str) -> None:
  """Writes a text file atomically; one with the same content is left.

  Raises:
    OSError: where it cannot be written.
  """
  with contextlib.suppress(OSError):
    if path.read_bytes() == text.encode():
      return
  with swapped_in(path) as part:
    part.write_text(text, encoding='utf-8', newline='\n')


def checksum(value: Any) -> str:
  """A hash of plain JSON, the same for any order of keys and any white space."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def sealed(value: Any) -> Any:
  """The value as plain JSON; a dict gets its checksum as the last key."""
  plain = json.loads(json.dumps(value, default=str))
  if isinstance(plain, dict):
    plain.pop(CHECKSUM, None)
    plain[CHECKSUM] = checksum(plain)
  return plain


def unsealed(value: Any) -> Any:
  """A `sealed` value without its checksum. Raises ValueError where the checksum differs."""
  if isinstance(value, dict) and CHECKSUM in value and value.pop(CHECKSUM) != checksum(value):
    raise ValueError('its checksum is another')
  return value


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
  """Writes JSON atomically; a dict gets a last key, `CHECKSUM`, which `read_json` verifies and removes."""
  write(path, json.dumps(sealed(value), indent=indent) + '\n')


def read_json(path: Path, schema: Any, anew: str, missing: Any = None) -> Any:
  """The content of a JSON file, checked against `schema`.

  Args:
    path: the file. One without a checksum, of an earlier version or another program, is accepted.
    schema: that of `misfit`.
    anew: what to do where the file is damaged, for the error.
    missing: returned where there is no file; None where that is an error too.

  Raises:
    KdjaxError: if it cannot be read, is damaged or does not fit the schema.
  """
  if missing is not None and not path.exists():
    return missing
  try:
    value = unsealed(parse(regular_file(path, 'JSON file', LARGEST).read_bytes()))
    if problem := misfit(value, schema):
      raise ValueError(problem)
  except (OSError, ValueError, KdjaxError) as e:
    reason = (e.strerror if isinstance(e, OSError) else '') or ' '.join(str(e).split())[:200]
    raise KdjaxError(f'cannot read {path} ({reason}): {anew}.') from e
  return value


def parse(text: str | bytes) -> Any:
  """Parses JSON; raises ValueError for whatever is wrong with it."""
  if not text.strip():
    raise ValueError('it is empty')
  try:
    return json.loads(text)
  except RecursionError as e:
    raise ValueError('it is nested too deeply') from e


def misfit(value: Any, schema: Any, name: str = 'it') -> str:
  """How plain JSON differs from the schema, '' where it fits.

  Args:
    value: of a file.
    schema: a type, or a tuple of types; `[schema]` of the items of a list; `{key: schema}` of the values of a
      dict, which may have others too and may lack 'key?'; `{str: schema}` of all its values.
    name: of the value, in the result.
  """
  if isinstance(schema, Mapping):
    if not isinstance(value, dict):
      return f'{name} is {_short(value)}, and not a dict'
    schemas = {k: schema[str] for k in value} if str in schema else schema
    for key, inner in schemas.items():
      name_of_key = key if str in schema else key.removesuffix('?')
      if name_of_key not in value and name_of_key == key:
        return f'{name} has no {key!r}'
      if name_of_key in value and (wrong := misfit(value[name_of_key], inner, repr(name_of_key))):
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
