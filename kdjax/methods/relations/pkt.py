"""Neighbourhoods: match each example's affinities to the batch (Passalis & Tefas, 1803.10837)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 30000.0  # RepDistiller and mdistiller, at a batch of 64 and the mean over B² below
EPS = 1e-7


def affinities(x, pairs):
  """`[B, D] -> [B, B]`: (cosine + 1) / 2 over the allowed pairs, each row divided by its sum."""
  length = losses.norm(x)[:, None]
  x = jnp.where(length > 0, x / jnp.where(length > 0, length + EPS, 1), 0)
  cosines = jnp.matmul(x, x.T, precision='highest')
  scores = jnp.maximum((cosines + 1) / 2, 0) * pairs  # rounding can take a cosine below -1
  sums = scores.sum(1, keepdims=True)
  return scores / jnp.where(sums > 0, sums, 1)


def pkt(*, student: Tap = 'embed', teacher: Tap = 'embed') -> Method:
  """Probabilistic knowledge transfer (arXiv 1803.10837) with the cosine kernel.

  Mean over all B² pairs of p · log((p + 1e-7) / (q + 1e-7)), with p and q the affinities of the
  teacher and of the student. The paper sums; the mean is that of the authors' code and of
  RepDistiller, and so is the affinity of each example to itself, which is kept. It counts once a
  batch, and padding takes no part in it.

  Args:
    student: its tap, flattened to [B, D].
    teacher: its tap, flattened to [B, E].
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'pkt', same_shape=False)
    m = taps.example_mask(batch, a)
    pairs = m[:, None] * m[None]
    q, p = affinities(losses.flatten(a), pairs), affinities(losses.flatten(b), pairs)
    total = jnp.sum(p * jnp.log((p + EPS) / (q + EPS)) * pairs)
    return (total / jnp.maximum(m.sum(), 1) ** 2, jnp.ones_like(total)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
