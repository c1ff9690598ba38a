"""Correlated errors: make the errors of two examples uncorrelated and small (CC as in RepDistiller)."""

from typing import Literal

import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn import losses, taps
from kdjax.nn.adapters import TwoEmbeddings, forward
from kdjax.options import Size, Tap
from kdjax.types import Method

WEIGHT = 0.02  # RepDistiller, sum over 128 dimensions, mean over the pairs

PAIRS = ('all', 'consecutive')


def cc_rd(
  *,
  dim: Size | None = 128,
  pairs: Literal['all', 'consecutive'] = 'all',
  student: Tap = 'embed',
  teacher: Tap = 'embed',
) -> Method:
  """The loss that RepDistiller's tables call Correlation Congruence (arXiv 1904.01802).

  Mean over pairs of examples i, j of Σ_d |e_i - f_i|_d · |e_j - f_j|_d, with e and f linear
  embeddings of the student and the teacher, both learned. There is no kernel in it: `cc_taylor`
  is the loss of the paper. RepDistiller takes the B - 1 pairs that stand next to each other in the
  batch, so that its loss depends on their order; all pairs give the mean of it over all orders.
  It counts once a batch, and padding takes no part in it.

  Args:
    dim: the width of the embeddings; None compares the taps as they are.
    pairs: 'all', or 'consecutive', which made the tables.
    student: its tap, flattened to [B, D].
    teacher: its tap, flattened to [B, E].
  """
  if pairs not in PAIRS:
    raise unknown('pairs of cc_rd', pairs, PAIRS)

  def read(s, t):
    return taps.pair(s, t, student, teacher, 'cc_rd', same_shape=dim is None)

  def init(rng, s, t, batch):
    return ({} if dim is None else TwoEmbeddings(dim).init(rng, *read(s, t))['params']), {}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = read(s, t)
    m = taps.example_mask(batch, a)
    if dim is None:
      a, b = losses.flatten(a), losses.flatten(b)
    else:
      a, b = forward(TwoEmbeddings(dim), params, a, b)
    delta = jnp.abs(a - b) * m[:, None]
    if pairs == 'all':
      total = jnp.sum(delta.sum(0) ** 2) - jnp.sum(delta**2)
      count = m.sum() ** 2 - jnp.sum(m**2)
    else:
      total = jnp.sum(delta[:-1] * delta[1:])
      count = jnp.sum(m[:-1] * m[1:])
    total = total / jnp.maximum(count, 1)
    return (total, jnp.ones_like(total)), stats

  return Method(init, loss, relational=True)
