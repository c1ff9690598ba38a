"""The processes of one run: initialisation, and a lock that they share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from filelock import FileLock, Timeout
from jax.experimental import multihost_utils

from kdjax.errors import KdjaxError
from kdjax.runtime import progress


def launched() -> bool:
  """Whether a launcher (SLURM, Open MPI, a TPU pod) started several processes."""
  environment = os.environ
  tasks = max(int(environment.get(k, 1)) for k in ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE'))
  return tasks > 1 or ',' in environment.get('TPU_WORKER_HOSTNAMES', '')


def distributed_init(
  coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
  """Joins the other processes of a pod; only the first prints from then on.

  Under a launcher that is recognised no argument is needed.

  Args:
    coordinator: 'host:port' of the first process.
    processes: how many there are.
    process: which of them this is, from 0.

  Raises:
    KdjaxError: if only some of the three are given, or the others cannot be reached.
  """
  address = (coordinator, processes, process)
  if any(g is not None for g in address) and any(g is None for g in address):
    raise KdjaxError('give --coordinator, --num_processes and --process_id, or none of them.')
  if coordinator or launched():
    try:
      jax.distributed.initialize(*address)
    except (RuntimeError, ValueError) as e:
      raise KdjaxError(f'cannot join the other processes: {str(e).splitlines()[0]}') from e
  if jax.process_index():
    progress.silence()


@contextmanager
def claimed(lock: Path) -> Iterator[bool]:
  """Whether this run got the lock, the same in all its processes; the first process holds it."""
  file_lock, acquired = FileLock(lock), True
  if not jax.process_index():
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
      file_lock.acquire(timeout=0)
    except Timeout:
      acquired = False
  try:
    yield bool(multihost_utils.broadcast_one_to_all(np.array(acquired)))
  finally:
    file_lock.release()
