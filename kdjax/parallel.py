"""Many devices: one mesh, batches split over it, weights on all."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from filelock import FileLock, Timeout
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdjax import progress
from kdjax.errors import KdjaxError, unknown

AXIS = 'data'


def launched() -> bool:
  """Whether a launcher (SLURM, Open MPI, a TPU pod) started several processes."""
  seen = os.environ
  tasks = max(int(seen.get(k, 1)) for k in ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE'))
  return tasks > 1 or ',' in seen.get('TPU_WORKER_HOSTNAMES', '')


def start(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
  """Joins the other processes of a pod, and leaves the talking to the first.

  Under a launcher that is recognised nothing has to be said.

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
  """Whether this run got the lock, the same answer in all its processes; it goes with the first of them."""
  held, mine = FileLock(lock), True
  if not jax.process_index():
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
      held.acquire(timeout=0)
    except Timeout:
      mine = False
  try:
    yield bool(multihost_utils.broadcast_one_to_all(np.array(mine)))
  finally:
    held.release()


def make_mesh() -> Mesh:
  """All devices of all processes on the axis 'data'."""
  # Auto axes: Linen's Dropout fails under the default, Explicit.
  return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch(size: int, mesh: Mesh, what: str) -> None:
  """Raises KdjaxError where a batch does not split over the devices."""
  if size < 1 or size % mesh.size:
    raise KdjaxError(f'{what} is {size}, which does not divide over {mesh.size} devices.')


def split(batch: Mapping, mesh: Mesh, steps: int = 1) -> dict:
  """This process's rows as global arrays, split over the devices; with `steps` a stack of as many batches."""
  sharding = NamedSharding(mesh, PartitionSpec(*(None,) * (steps > 1), AXIS))
  return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


class Ahead:
  """Batches on the devices, each moved there while the step before it runs.

  Attributes:
    batch: the next to be used, as `split` gives it.
    state: where a run goes on that has used all the batches before it; what a checkpoint keeps.
  """

  def __init__(self, batches: Iterator, mesh: Mesh, steps: int = 1):
    self.batches, self.mesh, self.steps = batches, mesh, steps
    self.fetch()

  def fetch(self) -> None:
    """Sets `batch` and `state` to those of the next step, or of the next `steps`, stacked."""
    self.state = self.batches.get_state()
    batches = [next(self.batches) for _ in range(self.steps)]
    batch = {k: np.stack([b[k] for b in batches]) for k in batches[0]} if self.steps > 1 else batches[0]
    self.batch = split(batch, self.mesh, self.steps)


def spread(x, mesh: Mesh):
  """Asks the compiler to split the first axis over the devices."""
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(AXIS)))


def everywhere(mesh: Mesh) -> NamedSharding:
  """The sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def check_relational(how: str, mesh: Mesh, relational: bool) -> None:
  """Raises KdjaxError for a relational loss under 'pmap', which would lose the pairs across devices."""
  if how == 'pmap' and relational and mesh.size > 1:
    raise KdjaxError(
      "parallel='pmap' shows each device its own rows alone, and the task or a method here relates the "
      "examples of the whole batch to each other: use parallel='jit'."
    )


def _rows(tree: Mapping, batch_size: int) -> dict:
  """Spec of every array: split over the devices where its first axis is the batch's."""
  return jax.tree.map(
    lambda x: PartitionSpec(AXIS) if x.ndim and x.shape[0] == batch_size else PartitionSpec(), tree
  )


def over_devices(tree: Any, mesh: Mesh, batch_size: int, steps: int = 1) -> Any:
  """The shardings of arrays of one batch, or of `steps` of them stacked: split where they have its rows."""
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, PartitionSpec(*(None,) * (steps > 1), *spec)),
    _rows(tree, batch_size),
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )


def compile_look(
  look: Callable, mesh: Mesh, shapes: tuple[Mapping, Mapping], batch_size: int, steps: int = 1
) -> Callable:
  """`look(teacher_variables, batch) -> (batch, t)`, compiled; `shapes` are those of what it gives.

  With `steps` it is one over a stack of as many batches; the shapes are of one.
  """
  return jax.jit(look, out_shardings=over_devices(shapes, mesh, batch_size, steps))


def compile_update(
  update: Callable, mesh: Mesh, how: str, relational: bool, t: Mapping, batch_size: int
) -> Callable:
  """`update(state, t, batch) -> (state, losses)`, compiled; the state is donated.

  Args:
    update: one training step of a student; for 'pmap' made with `axis=AXIS`.
    mesh: from `make_mesh`.
    how: 'jit', where the update sees the global batch, or 'pmap', where each device sees its own
      rows, batch norm included, and gradients are summed.
    relational: whether a loss relates examples to each other.
    t: the shapes of the teacher's taps.
    batch_size: of all devices together.

  Raises:
    KdjaxError: for a relational loss under 'pmap'.
  """
  check_relational(how, mesh, relational)
  if how == 'pmap':
    whole, rows = PartitionSpec(), PartitionSpec(AXIS)
    specs = (whole, _rows(t, batch_size), rows)
    update = jax.shard_map(update, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)
  elif how != 'jit':
    raise unknown('way to parallelise', how, ('jit', 'pmap'))
  return jax.jit(update, donate_argnums=0, out_shardings=everywhere(mesh))
