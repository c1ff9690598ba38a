"""Orthogonality: keep two embeddings from sharing information (Hazarika et al., MISA, 2005.03545)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 0.3  # MISA's diff_weight


def orthogonality(*, student: Tap = 'embed', teacher: Tap = 'embed') -> Method:
  """The difference loss of MISA (arXiv 2005.03545), as in its code and in MFH's.

  Mean of the squares of Xᵀ·Y, [D, E], with X and Y the embeddings minus their mean over the batch,
  each row divided by its L2 norm + 1e-6; no gradient goes through the norm. It pushes apart: give
  it the part of the student that shall hold what the teacher does not. It counts once a batch, and
  padding takes no part in it.

  Args:
    student: its tap, flattened to [B, D].
    teacher: its tap, flattened to [B, E].
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    pair = taps.pair(s, t, student, teacher, 'orthogonality', same_shape=False)
    m = taps.example_mask(batch, pair[0])[:, None]

    def rows(x):
      x = losses.flatten(x)
      x = (x - jnp.sum(x * m, 0) / jnp.maximum(m.sum(), 1)) * m
      return x / (jax.lax.stop_gradient(losses.norm(x))[:, None] + 1e-6)

    x, y = (rows(x) for x in pair)
    total = jnp.mean(jnp.square(jnp.matmul(x.T, y, precision='highest')))
    return (total, jnp.ones_like(total)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
