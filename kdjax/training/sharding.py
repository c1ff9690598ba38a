"""Many devices: one mesh, and batches split over it; `partition` splits weights."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdjax.errors import KdjaxError, unknown

AXIS = 'data'
AXES = AXIS, 'fsdp', 'tensor'
BATCH = AXIS, 'fsdp'  # the axes over which batches are split


def make_mesh(sizes: Mapping[str, int] = {}, devices: Sequence[Any] | None = None) -> Mesh:
  """The devices on named axes: all on 'data' by default.

  Args:
    sizes: axis -> its size, -1 for the rest, of `run.mesh`.
    devices: all of all processes by default.

  Raises:
    KdjaxError: where the sizes do not multiply to the devices, or the axis 'tensor' crosses processes.
  """
  shape = axis_sizes(sizes, len(devices) if devices is not None else jax.device_count())
  axes = list(shape)
  # Auto axes: Linen's Dropout fails under the default, Explicit.
  types = (AxisType.Auto,) * len(axes)
  mesh = jax.make_mesh([shape[a] for a in axes], axes, axis_types=types, devices=devices)
  hosts = [{d.process_index for d in row} for row in mesh.devices.reshape(batch_parts(mesh), -1)]
  if any(len(one) > 1 for one in hosts):
    raise KdjaxError(
      f'run.mesh.tensor is {shape["tensor"]}, which crosses processes, and each reads rows of a batch of its '
      'own: lower it, and raise run.mesh.fsdp.'
    )
  return mesh


def axis_sizes(sizes: Mapping[str, int], n: int) -> dict[str, int]:
  """Axis -> its size, of 'data' and the others above 1, for n devices.

  Raises:
    KdjaxError: where the sizes do not multiply to n.
  """
  shape = {AXIS: -1, 'fsdp': 1, 'tensor': 1} | dict(sizes)
  rest, known = (
    [a for a, size in shape.items() if size == -1],
    math.prod(s for s in shape.values() if s != -1),
  )
  if len(rest) > 1 or known < 1 or n % known or (not rest and known != n):
    words = ' × '.join(f'{axis} {size}' for axis, size in shape.items())
    raise KdjaxError(
      f'run.mesh is {words}, and there are {n} devices: their product has to be {n}, with at most one axis '
      '-1 for the rest.'
    )
  shape |= {axis: n // known for axis in rest}
  return {axis: shape[axis] for axis in AXES if axis == AXIS or shape[axis] > 1}


def on_cpu(mesh: Mesh) -> bool:
  """Whether its devices are those of a CPU."""
  return isinstance(mesh, Mesh) and mesh.devices.flat[0].platform == 'cpu'


def batch_axes(mesh: Mesh) -> str | tuple[str, ...]:
  """The axes of a mesh over which a batch is split, as a PartitionSpec has them."""
  return AXIS if 'fsdp' not in mesh.axis_names else BATCH


def batch_parts(mesh: Mesh) -> int:
  """Into how many parts a batch is split."""
  return math.prod(mesh.shape.get(axis, 1) for axis in BATCH)


def check_batch(size: int, mesh: Mesh, what: str) -> None:
  """Raises KdjaxError where a batch does not split over the devices."""
  if size < 1 or size % batch_parts(mesh):
    over = f'{mesh.size} devices'
    if batch_parts(mesh) != mesh.size:
      over = f'{batch_parts(mesh)} parts of the mesh, data × fsdp'
    raise KdjaxError(f'{what} is {size}, which does not divide over {over}.')


def to_global_arrays(batch: Mapping, mesh: Mesh, steps: int = 1) -> dict:
  """This process's rows as global arrays, split over the devices; with `steps` a stack of as many batches."""
  sharding = NamedSharding(mesh, PartitionSpec(*(None,) * (steps > 1), batch_axes(mesh)))
  return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def shard_batch_axis(x, mesh: Mesh):
  """Asks the compiler to split the first axis over the devices."""
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(batch_axes(mesh))))


def split_rows(x, mesh: Mesh, batch_size: int):
  """`shard_batch_axis` of an array that has the rows of a batch; any other as it is."""
  return shard_batch_axis(x, mesh) if x.ndim and x.shape[0] == batch_size else x


def to_host(tree: Any) -> Any:
  """The arrays of a tree in this process, also those of which other processes hold parts."""

  def fetch(x):
    here = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
    return jax.device_get(x) if here else multihost_utils.process_allgather(x, tiled=True)

  return jax.tree.map(fetch, tree)


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def check_parallel(how: str, mesh: Mesh, rules: Mapping[str, Any]) -> None:
  """Raises KdjaxError for axes beside 'data', or rules that split weights, under 'pmap'."""
  if how == 'pmap' and (mesh.axis_names != (AXIS,) or any(rules.values())):
    raise KdjaxError("run.parallel='pmap' splits batches alone: leave run.mesh and run.shard out.")


def check_relational(how: str, mesh: Mesh, relational: bool) -> None:
  """Raises KdjaxError for a relational loss under 'pmap', which would lose the pairs across devices."""
  if how == 'pmap' and relational and mesh.size > 1:
    raise KdjaxError(
      "parallel='pmap' shows each device its own rows alone, and the task or a method here relates the "
      "examples of the whole batch to each other: use parallel='jit'."
    )


def _rows(tree: Mapping, batch_size: int, axes: str | tuple[str, ...] = AXIS) -> dict:
  """Spec of every array: split over the devices where its first axis is the batch's."""
  return jax.tree.map(
    lambda x: PartitionSpec(axes) if x.ndim and x.shape[0] == batch_size else PartitionSpec(), tree
  )


def over_devices(tree: Any, mesh: Mesh, batch_size: int, steps: int = 1) -> Any:
  """The shardings of arrays of one batch, or of `steps` of them stacked: split where they have its rows."""
  return jax.tree.map(
    lambda spec: NamedSharding(mesh, PartitionSpec(*(None,) * (steps > 1), *spec)),
    _rows(tree, batch_size, batch_axes(mesh)),
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
  update: Callable, mesh: Mesh, how: str, relational: bool, t: Mapping, batch_size: int, state: Any = None
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
    state: the shardings of the state; None for whole on every device.

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
  whole = replicated(mesh)
  return jax.jit(update, donate_argnums=0, out_shardings=whole if state is None else (state, whole))
