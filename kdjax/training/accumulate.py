"""A batch that goes through in parts, one after the other, for less memory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError


def in_parts(n: int) -> Callable:
  """`gradient(objective)`, for `step.make_update`: a batch goes through in n parts, one after the other.

  A term is the mean over the whole batch all the same: its count is known before the first part, since
  it depends on the batch alone, and XLA drops all the rest of that pass. Part i has the rows i, i + n, …,
  so that a batch that is split over devices stays where it is. The student's statistics go from part to
  part; batch norm sees a part at a time, and dropout draws anew for each. Methods see the same statistics
  in each, and keep the mean of what the parts make of them, each with the share of its count; they have
  the same rng, from which they draw by an example's 'id'. They are a loop on CPU too, where `kdjax.nn.conv`
  is as fast in one, and where XLA would hold all parts at once if they were not.

  Args:
    n: how many parts, a divisor of the batch.
  """

  def gradient(objective):
    def accumulated(params, stats, t, batch, rng):
      _, (terms, _) = objective(params, stats, t, batch, rng)
      counts = {name: count for name, (_, count) in terms.items()}
      size = len(jax.tree.leaves(batch)[0])

      def rows(x):
        if not x.ndim or len(x) != size:
          return jnp.broadcast_to(x, (n, *x.shape))
        return x.reshape(size // n, n, *x.shape[1:]).swapaxes(0, 1)

      def part(carry, inputs):
        i, t, batch = inputs
        student, sums = carry
        current = {'student': student, 'method': stats['method']}
        grads, (terms, new) = jax.grad(objective, has_aux=True)(params, current, t, batch, rng, counts, i)
        shares = {name: terms[name][1] / jnp.maximum(counts[name], 1) for name in stats['method']}
        moved = {name: _moved(new['method'][name], stats['method'][name], shares[name]) for name in shares}
        return (new['student'], jax.tree.map(jnp.add, sums, (grads, terms, moved))), None

      start = stats['student'], jax.tree.map(jnp.zeros_like, (params, terms, stats['method']))
      parts = jnp.arange(n), *jax.tree.map(rows, (dict(t), dict(batch)))
      (student, (grads, terms, moved)), _ = jax.lax.scan(part, start, parts)
      method = jax.tree.map(lambda old, x: old + x, stats['method'], moved)
      return grads, (terms, {'student': student, 'method': method})

    return accumulated

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
