"""Correlation congruence: match a Gaussian kernel of the examples (Peng et al., 1904.01802)."""

import math
from typing import Annotated

import jax.numpy as jnp
from annotated_types import Interval

from kdjax.nn import losses, taps
from kdjax.options import Order, Tap
from kdjax.types import Method

WEIGHT = 100.0  # Knowledge-Distillation-Zoo, mean over B²


def cc_taylor(
  *,
  gamma: Annotated[float, Interval(gt=0, le=10)] = 0.4,
  order: Order = 2,
  student: Tap = 'embed',
  teacher: Tap = 'embed',
) -> Method:
  """Correlation congruence (arXiv 1904.01802, section 3), as in Knowledge-Distillation-Zoo.

  Mean over B² of (K_S - K_T)², with K = exp(-2γ) · Σ_p (2γ)^p / p! · (x_i·x_j)^p, p up to `order`:
  the Taylor series of exp(-γ |x_i - x_j|²) for features x of length 1. It counts once a batch,
  and padding takes no part in it. `cckd` and `cc_rd` are other maths under the same name.

  Args:
    gamma: γ of the kernel.
    order: the last power of the series.
    student: its tap, flattened to [B, D].
    teacher: its tap, flattened to [B, E].
  """

  def kernel(x):
    x = losses.unit(losses.flatten(x))
    similarity = jnp.matmul(x, x.T, precision='highest')
    series = losses.total((2 * gamma) ** p / math.factorial(p) * similarity**p for p in range(order + 1))
    return math.exp(-2 * gamma) * series

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'cc_taylor', same_shape=False)
    m = taps.example_mask(batch, a)
    total = jnp.sum(jnp.square(kernel(a) - kernel(b)) * m[:, None] * m[None])
    return (total / jnp.maximum(m.sum(), 1) ** 2, jnp.ones_like(total)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
