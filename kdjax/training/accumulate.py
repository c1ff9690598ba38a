"""Gradient accumulation: a batch goes through the model in parts, for less memory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError


def in_parts(n: int) -> Callable:
  """`gradient(objective)` for `step.make_update`, summed over n parts of the batch in a `lax.scan`.

  A term is still the mean over the whole batch: the counts are computed first, from the whole batch, and XLA
  drops the rest of that pass. Part i has the rows i, i + n, …, so no row moves between devices.

  The student's statistics are carried from part to part, batch norm normalises over a part, and dropout draws
  for each part. The methods get the same statistics and the same rng in every part, draw by an example's
  'id', and their new statistics are averaged by the parts' counts.

  Args:
    n: how many parts, a divisor of the batch size.
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
  """The change of the statistics in a part, times its share of the count."""
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
