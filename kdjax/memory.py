"""Training in less memory, and whether what is asked for fits at all."""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax import progress
from kdjax.errors import KdjaxError
from kdjax.types import Model

BLOCK = re.compile(r'block\d+$')  # in the name of a module


def in_parts(n: int) -> Callable:
  """`gradient(objective)`, for `step.make_update`: a batch goes through in n parts, one after the other.

  A term is the mean over the whole batch all the same: its count is known before the first part, since
  it depends on the batch alone, and XLA drops all the rest of that look. Part i has the rows i, i + n, …,
  so that a batch that is split over devices stays where it is. The student's statistics go from part to
  part; batch norm sees a part at a time, and dropout draws anew for each. Methods see the same statistics
  in each, and keep the mean of what the parts make of them, each with the share of its count; they have
  the same rng, from which they draw by an example's 'id'. They are a loop on CPU too, where `kdjax.conv`
  is as fast in one, and where XLA would hold all parts at once if they were not.

  Args:
    n: how many parts, a divisor of the batch.
  """

  def gradient(objective):
    def over(params, stats, t, batch, rng):
      _, (terms, _) = objective(params, stats, t, batch, rng)
      counts = {name: count for name, (_, count) in terms.items()}
      size = len(jax.tree.leaves(batch)[0])

      def rows(x):
        if not x.ndim or len(x) != size:
          return jnp.broadcast_to(x, (n, *x.shape))
        return x.reshape(size // n, n, *x.shape[1:]).swapaxes(0, 1)

      def part(carry, given):
        i, t, batch = given
        student, sums = carry
        now = {'student': student, 'method': stats['method']}
        grads, (terms, new) = jax.grad(objective, has_aux=True)(params, now, t, batch, rng, counts, i)
        shares = {name: terms[name][1] / jnp.maximum(counts[name], 1) for name in stats['method']}
        moved = {name: _moved(new['method'][name], stats['method'][name], shares[name]) for name in shares}
        return (new['student'], jax.tree.map(jnp.add, sums, (grads, terms, moved))), None

      start = stats['student'], jax.tree.map(jnp.zeros_like, (params, terms, stats['method']))
      parts = jnp.arange(n), *jax.tree.map(rows, (dict(t), dict(batch)))
      (student, (grads, terms, moved)), _ = jax.lax.scan(part, start, parts)
      method = jax.tree.map(lambda old, x: old + x, stats['method'], moved)
      return grads, (terms, {'student': student, 'method': method})

    return over

  return gradient


def _moved(new, old, share):
  """What a part's share of the new statistics adds to the old."""
  return jax.tree.map(lambda x, y: share * (x - y), new, old)


def check_parts(n: int, batch_size: int, devices: int, relational: bool, stage: str) -> None:
  """Raises KdjaxError where a batch does not divide into n parts, or a loss needs the whole of it."""
  if n > 1 and batch_size % (n * devices):
    raise KdjaxError(
      f'{stage}.train.accumulate is {n}, and {stage}.train.batch_size {batch_size} does not divide into '
      f'{n} parts over {devices} devices.'
    )
  if n > 1 and relational:
    raise KdjaxError(
      f'{stage}.train.accumulate is {n}, and a method here relates the examples of the whole batch to each '
      f'other: set {stage}.train.accumulate=1.'
    )


def remat(model: Model) -> Model:
  """The model, of whose blocks the gradient keeps no more than what goes in, and makes the rest anew.

  A block is a Flax module whose name ends in 'block' and a number. Results are the same up to rounding.
  XLA:CPU puts the two forwards together again, and saves nothing.
  """

  def block(call, args, kwargs, context):
    if context.method_name != '__call__' or not BLOCK.search(context.module.name or ''):
      return call(*args, **kwargs)
    method, (x, *rest) = context.orig_method.func, args
    return nn.remat(lambda module, x: method(module, x, *rest, **kwargs))(context.module, x)

  def apply(variables, batch, *, train=False, rng=None):
    if not train:
      return model.apply(variables, batch)
    with nn.intercept_methods(block):
      return model.apply(variables, batch, train=True, rng=rng)

  return Model(model.init, apply)


def size(tree: Any) -> int:
  """Bytes of all arrays, or shapes, of a tree."""
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def on_the_way(compiled: Any) -> dict[str, int]:
  """What a compiled step makes and frees again, in bytes a device, where the backend says it."""
  analysis = compiled.memory_analysis()
  return {'for what a step makes on its way': analysis.temp_size_in_bytes} if analysis else {}


def free(mesh: jax.sharding.Mesh) -> float:
  """Bytes that a device has left: on CPU its share of the machine's, or of the container's."""
  device = mesh.local_devices[0]
  if stats := device.memory_stats():
    return stats.get('bytes_limit', math.inf) - stats.get('bytes_in_use', 0)
  found = [math.inf]
  try:
    lines = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
    found.append(1024 * int(lines['MemAvailable'].split()[0]))
    group = Path('/sys/fs/cgroup')
    limit = (group / 'memory.max').read_text().strip()
    if limit != 'max':
      found.append(int(limit) - int((group / 'memory.current').read_text()))
  except (OSError, KeyError, ValueError):  # another system: what was found so far
    pass
  return min(found) / len(mesh.local_devices)


def check(name: str, needs: Mapping[str, float], there: float, shrink: str) -> None:
  """Raises KdjaxError if the bytes that are free on a device are fewer than it needs.

  Args:
    name: of the stage.
    needs: what for -> bytes.
    there: bytes.
    shrink: what to do about it.
  """
  if (total := sum(needs.values())) > there:
    parts = ', '.join(f'{progress.size(n)} {what}' for what, n in needs.items())
    raise KdjaxError(
      f'{name}: the training takes at least {progress.size(total)} on each device and there are '
      f'{progress.size(max(there, 0))}: {shrink} ({parts}).'
    )
