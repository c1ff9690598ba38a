"""One run at a time in a workdir, and who it is."""

import contextlib
import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from filelock import FileLock, Timeout
from jax.experimental import multihost_utils

from kdjax.errors import KdjaxError
from kdjax.runtime import files

LOCK, OWNER = '.lock', '.owner.json'
SCHEMA = {'process': int, 'host': str, 'since': str}
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # file systems without locks


@contextmanager
def held(workdir: Path) -> Iterator[None]:
  """Holds a workdir for this run, by the first process of a pod, and clears what killed runs left in it.

  The system lets the lock go with the process, however that ends.

  Raises:
    KdjaxError: if another run has it, or it cannot be written to.
  """
  lock, wrong, new = FileLock(workdir / LOCK), '', not os.path.exists(workdir)
  if not jax.process_index():
    try:
      wrong = _acquire(workdir, lock)
    except OSError as e:
      wrong = f'cannot write to --workdir={workdir} ({e.strerror or e}); choose another one.'
  try:
    if not bool(multihost_utils.broadcast_one_to_all(np.array(not wrong))):
      raise KdjaxError(wrong or f'{workdir} is in use: the first process says by whom.')
    yield
  finally:
    if not jax.process_index() and not wrong:
      with contextlib.suppress(OSError):
        (workdir / OWNER).unlink(missing_ok=True)
        if new and {p.name for p in workdir.iterdir()} <= {LOCK}:  # the config was refused
          shutil.rmtree(workdir)
    lock.release()


def _acquire(workdir, lock) -> str:
  """Takes the lock and signs it; says who has it otherwise."""
  if workdir.exists() and not workdir.is_dir():
    return f'--workdir is {workdir}, which is a file.'
  workdir.mkdir(parents=True, exist_ok=True)
  try:
    lock.acquire(timeout=0)
  except Timeout:
    return in_use(workdir)
  except OSError as e:
    if e.errno not in UNSUPPORTED:
      raise
    if (workdir / OWNER).exists() and not _dead(workdir):
      return in_use(workdir) + f' If it has ended, delete {workdir / OWNER}.'
  _clear(workdir)
  mine = {'process': os.getpid(), 'host': socket.gethostname(), 'since': time.strftime('%Y-%m-%d %H:%M:%S')}
  files.write_json(workdir / OWNER, mine)
  return ''


def in_use(workdir: Path) -> str:
  """Who has it, as one line."""
  try:
    owner = files.read_json(workdir / OWNER, SCHEMA, '')
    who = f'process {owner["process"]} on {owner["host"]} since {owner["since"]}'
  except KdjaxError:  # it is only just signing
    who = 'another process'
  return f'{workdir} is in use by {who}: wait, or choose another --workdir.'


def _dead(workdir) -> bool:
  """Whether the owner was on this host and is no more; on another host nobody can know."""
  try:
    owner = files.read_json(workdir / OWNER, SCHEMA, '')
    if owner['host'] != socket.gethostname():
      return False
    os.kill(owner['process'], 0)
  except (ProcessLookupError, KdjaxError):
    return True
  except (PermissionError, OverflowError):
    pass
  return False


def _clear(workdir):
  """Deletes the halves of files and checkpoints that killed runs were writing."""
  files.clear_parts(workdir, mine=True)
  for half in workdir.rglob('checkpoints/*.orbax-checkpoint-tmp*'):
    shutil.rmtree(half, ignore_errors=True)
