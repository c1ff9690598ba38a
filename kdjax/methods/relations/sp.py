"""Similarities within the batch: match the Gram matrix of the examples (Tung & Mori, 1907.09682)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 3000.0  # RepDistiller and mdistiller, at a batch of 64 and the division by B² below


def sp(*, student: Tap = 'image/stage3', teacher: Tap = 'image/stage3') -> Method:
  """Similarity-preserving distillation (arXiv 1907.09682, equations 1-3).

  Σ (S - T)² / B², with S and T the Gram matrices F·Fᵀ of the flattened features, each row divided
  by its L2 norm. It counts once a batch, and padding takes no part in it.

  Args:
    student: its tap, flattened to [B, D].
    teacher: its tap, flattened to [B, E].
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'sp', same_shape=False)
    m = taps.example_mask(batch, a)
    pairs = m[:, None] * m[None]
    total = jnp.sum(jnp.square(losses.similarities(a, pairs) - losses.similarities(b, pairs)) * pairs)
    return (total / jnp.maximum(m.sum(), 1) ** 2, jnp.ones_like(total)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
