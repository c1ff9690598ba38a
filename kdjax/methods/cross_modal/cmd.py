"""Central moments: match the distribution of a batch of embeddings (Zellinger et al., 1702.08811)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Power, Tap
from kdjax.types import Method

WEIGHT = 1.0  # MISA's sim_weight, with five moments
NUMBERS = True  # pairs the numbers of a regression as well as class scores


def cmd(*, moments: Power = 5, student: Tap = 'logits', teacher: Tap = 'logits') -> Method:
  """Central moment discrepancy (arXiv 1702.08811, definition 1), as in MISA and MFH.

  |E x - E y| + Σ_k |E (x - E x)^k - E (y - E y)^k|, k = 2 ... `moments`; E over the batch, the
  powers elementwise, | | the L2 norm over the dimensions. Deviation from the paper: the moments are
  not divided by the k-th power of the range of the activations, so that it needs bounded taps: where
  one overflows the loss is infinite. It pairs no examples. It counts once a batch, and padding takes no
  part in it.

  Args:
    moments: how many, at least 1.
    student: its tap, flattened to [B, D].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    pair = [losses.flatten(x) for x in losses.both_masked(*taps.pair(s, t, student, teacher, 'cmd'))]
    m = taps.example_mask(batch, pair[0])[:, None]

    def mean(x):
      return jnp.sum(x * m, 0) / jnp.maximum(m.sum(), 1)

    means = [mean(x) for x in pair]
    centred = [jnp.where(jnp.isinf(e), 0, x - e) * m for x, e in zip(pair, means, strict=True)]
    top = jnp.maximum(*map(losses.largest, centred))[0, 0]  # a power is infinite where it overflows, not NaN
    total = losses.norm(losses.gap(*means))
    for k in range(2, moments + 1):
      a, b = (mean((x / top) ** k) for x in centred)
      distance = losses.norm(a - b)
      total += jnp.where(distance == 0, 0, top**k * distance)
    return (total, jnp.ones_like(total)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
