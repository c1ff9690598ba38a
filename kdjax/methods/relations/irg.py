"""Instance graphs: distances between examples and how layers change them (Liu et al., CVPR 2019)."""

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Taps
from kdjax.types import Method

WEIGHT = 1.0  # Knowledge-Distillation-Zoo, with the three factors below

TAPS = ('image/stage2', 'image/stage3', 'embed', 'logits')


def by_largest(d):
  """`d` divided by its largest entry."""
  top = d.max()
  return d / jnp.where(top > 0, top, 1)


def edges(x, pairs):
  """Squared distances between the examples `[B, ...]`, by the largest: `[B, B]`."""
  x = losses.flatten(x)
  x = losses.scaled(x - jax.lax.stop_gradient(x.mean(0)))  # the nearer to 0, the less rounding
  square = jnp.sum(x * x, -1)
  d = jnp.maximum(square[:, None] + square[None] - 2 * jnp.matmul(x, x.T, precision='highest'), 0)
  return by_largest(d * (1 - jnp.eye(len(x), dtype=d.dtype)) * pairs)


def shift(x, y, mask):
  """Squared distance of each example from map `x` to the later map `y`, by the largest: `[B]`.

  `x` is averaged over windows to the height and width of `y`, and `y` over neighbouring channels
  to the width of `x`.
  """
  if y.shape[-1] % x.shape[-1]:
    raise KdjaxError(
      f'irg cannot follow a map {list(x.shape)} to one {list(y.shape)}: the second needs a multiple '
      'of the channels of the first.'
    )
  x = losses.average_to(x, y.shape[1:3])
  y = y.reshape(*x.shape, -1).mean(-1)
  return by_largest(jnp.sum(jnp.square(losses.scaled(losses.flatten(x - y) * mask[:, None])), -1))


def irg(
  *,
  vertex: NonNegative = 0.1,
  edge: NonNegative = 5.0,
  transform: NonNegative = 5.0,
  student: Taps = TAPS,
  teacher: Taps = TAPS,
) -> Method:
  """Instance relationship graphs (Liu et al., CVPR 2019).

  `vertex` · MSE of the last taps + `edge` · MSE of the squared distances between the examples,
  mean over the other taps + `transform` · MSE of how far each example moves from one map to the
  next, mean over the pairs of maps. Distances are divided by the largest of the batch. The paper
  gives no such details; they are Knowledge-Distillation-Zoo's, without its floor of 1e-12 under
  the distances. It counts once a batch, and padding takes no part in it.

  Args:
    vertex: the factor of the vertices.
    edge: the factor of the edges.
    transform: the factor of the transformations between neighbouring maps [B, H, W, C].
    student: its taps: at least one for the edges, and last the vertices [B, C].
    teacher: its taps, as many; the last of the student's shape.
  """
  if len(student) != len(teacher) or len(student) < 2:
    raise KdjaxError(
      f'irg needs as many taps of the student as of the teacher, at least 2; it was given '
      f'{len(student)} and {len(teacher)}.'
    )

  def loss(params, stats, s, t, batch, *, step, rng):
    last = len(student) - 1
    tap_pairs = [
      taps.pair(s, t, a, b, 'irg', same_shape=i == last)
      for i, (a, b) in enumerate(zip(student, teacher, strict=True))
    ]
    *inner, (q, p) = tap_pairs
    m = taps.example_mask(batch, q)
    n, pairs = jnp.maximum(m.sum(), 1), m[:, None] * m[None]
    q, p = losses.both_masked(q, p)
    total = vertex * jnp.sum(taps.mean_over_axes(jnp.square(q - p)) * m) / n
    each = [jnp.sum(jnp.square(edges(a, pairs) - edges(b, pairs))) / n**2 for a, b in inner]
    total += edge * sum(each) / len(each)
    maps = [(a, b) for a, b in inner if a.ndim == b.ndim == 4]
    moved = [
      jnp.sum(jnp.square(shift(a, c, m) - shift(b, d, m))) / n
      for (a, b), (c, d) in zip(maps[:-1], maps[1:], strict=True)
    ]
    if moved:
      total += transform * sum(moved) / len(moved)
    return (total, jnp.ones_like(total)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
