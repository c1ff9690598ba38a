"""The live teacher's forward pass, and its outputs as the records of a store."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.teacher_store import record
from kdjax.training import partition, sharding
from kdjax.training import step as steps
from kdjax.training.setup import Setup


class Teacher(NamedTuple):
  """The teacher on the devices of this process.

  Attributes:
    size: the batch size.
    teacher_forward: the forward pass, `(batch, view) -> taps`, on the device.
    answer: `(batch, view) -> (records [B], taps)`, the records as they are stored.
  """

  size: int
  teacher_forward: Callable
  answer: Callable


def make(
  setup: Setup,
  taps: tuple[record.Tap, ...],
  batch: Mapping,
  sizes: Mapping[str, int] = {},
  rules: partition.Rules = None,
) -> Teacher:
  """The same program that training runs for the live teacher, with the same batch per device.

  Hosts do not wait for each other: each runs it on its own devices only.

  Args:
    setup: of the student's training, with the live teacher.
    taps: what is stored of its outputs.
    batch: a training batch, for its shapes.
    sizes: of the mesh; each process makes one of its own devices.
    rules: that split the teacher's weights over it, see `partition`.
  """
  mesh = sharding.make_mesh(sizes)
  if jax.process_count() > 1:
    mesh = sharding.make_mesh({**sizes, sharding.AXIS: -1}, jax.local_devices())
  size = setup.batch_size // jax.process_count()
  specs = partition.of_variables(setup.teacher_variables, mesh, rules, 'run.shard.teacher')
  variables = jax.device_put(setup.teacher_variables, partition.shardings(specs, mesh))
  forward = steps.make_teacher_forward(setup.teacher, setup.augment, frozenset(tap.name for tap in taps))
  first = {k: v[:size] for k, v in batch.items()}
  forward = sharding.compile_teacher_forward(forward, mesh, jax.eval_shape(forward, variables, first), size)
  encode = jax.jit(lambda t: record.encode(taps, t))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(sharding.batch_axes(mesh)))

  def forward_view(batch: Mapping, view: int) -> Any:
    batch = dict(batch) | {'epoch': np.full(size, view, np.int32)}
    return forward(variables, jax.device_put(batch, rows))[1]

  def forward_records(batch: Mapping, view: int) -> tuple[np.ndarray, Any]:
    t = forward_view(batch, view)
    arrays, checks = jax.device_get(encode(t))
    for name, (fits, peak) in checks.items():
      if not fits:
        raise KdjaxError(_range_error(name, peak, next(tap.dtype for tap in taps if tap.name == name)))
    return record.pack(taps, batch['id'], view, arrays), t

  return Teacher(size, forward_view, forward_records)


def _range_error(name, peak, dtype):
  if np.isnan(peak):
    return f'the teacher outputs NaN in {name!r}, which cannot be stored: check its weights.'
  return (
    f'the teacher outputs values up to {peak:.3g} in {name!r}, beyond {dtype}: set store.dtype to float32.'
  )
