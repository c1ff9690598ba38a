"""The live teacher asked for what a store keeps."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import parallel
from kdjax import step as steps
from kdjax.errors import KdjaxError
from kdjax.setup import Setup
from kdjax.store import layout


class Teacher(NamedTuple):
  """The teacher on the devices of this process.

  Attributes:
    size: of the batches it takes.
    look: `(batch, view) -> taps` of the view, on the device.
    answer: `(batch, view) -> (records [B], taps)`, the records in memory as they are stored.
  """

  size: int
  look: Callable
  answer: Callable


def make(setup: Setup, taps: tuple[layout.Tap, ...], batch: Mapping) -> Teacher:
  """The very program that training runs for the live teacher, of the same batch a device.

  Hosts do not wait for each other: each runs it on its own devices alone.

  Args:
    setup: of the student's training, with the live teacher.
    taps: what is kept of it.
    batch: one of training, for its shapes.
  """
  everywhere = parallel.make_mesh()
  own = [d for d in everywhere.devices.flat if d.process_index == jax.process_index()]
  mesh = jax.sharding.Mesh(np.array(own), everywhere.axis_names)
  size = setup.batch_size // jax.process_count()
  variables = jax.device_put(setup.teacher_variables, parallel.everywhere(mesh))
  look = steps.make_look(setup.teacher, setup.view, frozenset(tap.name for tap in taps))
  first = {k: v[:size] for k, v in batch.items()}
  look = parallel.compile_look(look, mesh, jax.eval_shape(look, variables, first), size)
  encode = jax.jit(lambda t: layout.encode(taps, t))
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(parallel.AXIS))

  def see(batch: Mapping, view: int) -> Any:
    batch = dict(batch) | {'epoch': np.full(size, view, np.int32)}
    return look(variables, jax.device_put(batch, rows))[1]

  def answer(batch: Mapping, view: int) -> tuple[np.ndarray, Any]:
    t = see(batch, view)
    arrays, checks = jax.device_get(encode(t))
    for name, (fits, peak) in checks.items():
      if not fits:
        raise KdjaxError(_unfit(name, peak, next(tap.dtype for tap in taps if tap.name == name)))
    return layout.pack(taps, batch['id'], view, arrays), t

  return Teacher(size, see, answer)


def _unfit(name, peak, dtype):
  if np.isnan(peak):
    return f'the teacher gives values in {name!r} that are no numbers: nothing can be stored of them.'
  return f'the teacher gives values up to {peak:.3g} in {name!r}, beyond {dtype}: set store.dtype to float32.'
