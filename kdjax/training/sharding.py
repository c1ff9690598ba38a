"""Many devices: one mesh, batches split over it, weights on all."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdjax.errors import KdjaxError, unknown

AXIS = 'data'


def make_mesh() -> Mesh:
  """All devices of all processes on the axis 'data'."""
  # Auto axes: Linen's Dropout fails under the default, Explicit.
  return jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,))


def check_batch(size: int, mesh: Mesh, what: str) -> None:
  """Raises KdjaxError where a batch does not split over the devices."""
  if size < 1 or size % mesh.size:
    raise KdjaxError(f'{what} is {size}, which does not divide over {mesh.size} devices.')


def to_global_arrays(batch: Mapping, mesh: Mesh, steps: int = 1) -> dict:
  """This process's rows as global arrays, split over the devices; with `steps` a stack of as many batches."""
  sharding = NamedSharding(mesh, PartitionSpec(*(None,) * (steps > 1), AXIS))
  return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def shard_batch_axis(x, mesh: Mesh):
  """Asks the compiler to split the first axis over the devices."""
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(AXIS)))


def replicated(mesh: Mesh) -> NamedSharding:
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


def compile_teacher_forward(
  teacher_forward: Callable, mesh: Mesh, shapes: tuple[Mapping, Mapping], batch_size: int, steps: int = 1
) -> Callable:
  """`teacher_forward(teacher_variables, batch) -> (batch, t)`, compiled; `shapes` are those of what it gives.

  With `steps` it is one over a stack of as many batches; the shapes are of one.
  """
  return jax.jit(teacher_forward, out_shardings=over_devices(shapes, mesh, batch_size, steps))


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
  return jax.jit(update, donate_argnums=0, out_shardings=replicated(mesh))
