"""A lock for a workdir, and the process that holds it."""

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
from kdjax.runtime import files, hosts

LOCK, OWNER = '.lock', '.owner.json'
SCHEMA = {'process': int, 'host': str, 'since': str}
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # file systems without locks


@contextmanager
def held(workdir: Path) -> Iterator[None]:
  """Locks a workdir for this run, by the first process of a pod, and deletes what killed runs left in it.

  The system releases the lock with the process, however that ends.

  Raises:
    KdjaxError: if another run has it, it cannot be written to, or a process of the pod does not see it.
  """
  lock, problem, created = FileLock(workdir / LOCK), '', not os.path.exists(workdir)
  if not jax.process_index():
    try:
      problem = _acquire(workdir, lock)
    except OSError as e:
      problem = f'cannot write to --workdir={workdir} ({e.strerror or e}); choose another one.'
  try:
    if not bool(multihost_utils.broadcast_one_to_all(np.array(not problem))):
      raise KdjaxError(problem or f'{workdir} is in use: the first process says by whom.')
    hosts.check_shared(workdir)
    yield
  finally:
    if not jax.process_index() and not problem:
      with contextlib.suppress(OSError):
        (workdir / OWNER).unlink(missing_ok=True)
        if created and {p.name for p in workdir.iterdir()} <= {LOCK}:  # the config was refused
          shutil.rmtree(workdir)
    lock.release()


def _acquire(workdir, lock) -> str:
  """Takes the lock and writes its owner; otherwise returns who has it."""
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
    if (workdir / OWNER).exists() and not _owner_is_dead(workdir):
      return in_use(workdir) + f' If it has ended, delete {workdir / OWNER}.'
  _clear(workdir)
  owner = {'process': os.getpid(), 'host': socket.gethostname(), 'since': time.strftime('%Y-%m-%d %H:%M:%S')}
  files.write_json(workdir / OWNER, owner)
  return ''


def in_use(workdir: Path) -> str:
  """A message that names the owner."""
  try:
    owner = files.read_json(workdir / OWNER, SCHEMA, '')
    holder = f'process {owner["process"]} on {owner["host"]} since {owner["since"]}'
  except KdjaxError:  # its owner is not written yet
    holder = 'another process'
  return f'{workdir} is in use by {holder}: wait, or choose another --workdir.'


def _owner_is_dead(workdir) -> bool:
  """Whether the owner was a process of this host and has ended; False for another host."""
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
  """Deletes unfinished files and checkpoints of killed runs."""
  files.clear_parts(workdir, mine=True)
  for unfinished in workdir.rglob('checkpoints/*.orbax-checkpoint-tmp*'):
    shutil.rmtree(unfinished, ignore_errors=True)
