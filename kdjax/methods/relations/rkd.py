"""Relations: match the distances and angles between examples (Park et al., 1904.05068)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Tap
from kdjax.types import Method

WEIGHT = 1.0  # RepDistiller and mdistiller, with the two factors below


def distances(x, *, squared=False, eps=1e-12):
  """Euclidean distances between the rows of `x` `[B, D]`: `[B, B]`, its diagonal 0."""
  x = x - jax.lax.stop_gradient(x.mean(0))  # the nearer to 0, the less rounding; no distance changes
  square = jnp.sum(x * x, -1)
  d = jnp.maximum(square[:, None] + square[None] - 2 * jnp.matmul(x, x.T, precision='highest'), eps)
  d = d if squared else jnp.sqrt(d)
  return d * (1 - jnp.eye(len(x), dtype=d.dtype))


def angles(x, eps=1e-12):
  """Cosines of the angle at j of each triple: `[B, D] -> [B, B, B]`, indexed [j, i, k]."""
  e = x[None] - x[:, None]
  square = jnp.sum(e * e, -1, keepdims=True)
  length = jnp.sqrt(jnp.where(square > eps**2, square, 1))
  e = e / jnp.where(square > eps**2, length, eps)
  return jnp.einsum('jid,jkd->jik', e, e, precision='highest')


def rkd(
  *,
  distance: NonNegative = 25.0,
  angle: NonNegative = 50.0,
  squared: bool = False,
  student: Tap = 'embed',
  teacher: Tap = 'embed',
) -> Method:
  """Relational knowledge distillation (arXiv 1904.05068, equations 4-10).

  `distance` · Huber of the pairwise distances, each divided by the mean of its own batch, plus
  `angle` · Huber of the cosines of all triples; mean over B² and B³ entries, the zero diagonal
  among them, as in RepDistiller. The student's mean distance is inside the gradient. It counts
  once a batch, and padding takes no part in it.

  Args:
    distance: the factor of the distance loss.
    angle: the factor of the angle loss; it costs B² · D memory and B³ values.
    squared: uses squared distances (an option of mdistiller, used in no table).
    student: its tap, flattened to [B, D].
    teacher: its tap, flattened to [B, E].
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'rkd', same_shape=False)
    a, b = losses.flatten(a), losses.flatten(b)
    m = taps.example_mask(batch, a)
    n = jnp.maximum(m.sum(), 1)
    total = jnp.zeros((), a.dtype)
    if distance:
      pairs = m[:, None] * m[None]

      def normalised(x):
        d = losses.scaled(distances(x, squared=squared) * pairs)
        positive = jnp.sum(d > 0)
        return d / jnp.maximum(d.sum() / jnp.maximum(positive, 1), 1e-12)

      total += distance * jnp.sum(losses.smooth_l1(normalised(a) - normalised(b)) * pairs) / n**2
    if angle:
      triples = m[:, None, None] * m[None, :, None] * m[None, None]
      total += angle * jnp.sum(losses.smooth_l1(angles(a) - angles(b)) * triples) / n**3
    return (total, jnp.ones((), a.dtype)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
