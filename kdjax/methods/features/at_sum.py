"""Attention maps: the sum of the absolute channels at each position (Zagoruyko et al., 1612.03928)."""

from typing import Annotated

import jax.numpy as jnp
from annotated_types import Interval

from kdjax.nn import losses, taps
from kdjax.options import Stages
from kdjax.types import Method

WEIGHT = 1000.0  # Knowledge-Distillation-Zoo, p = 2

STAGES = ('image/stage1', 'image/stage2', 'image/stage3')


def at_sum(
  *, p: Annotated[float, Interval(ge=1, le=20)] = 2.0, student: Stages = STAGES, teacher: Stages = STAGES
) -> Method:
  """Attention transfer (arXiv 1612.03928, equation 2) in the form of Knowledge-Distillation-Zoo.

  Σ over stages of the mean over HW of (n(Σ_c |f_S|^p) - n(Σ_c |f_T|^p))², n(q) = q / (||q|| + 1e-6)
  over the map. Deviations from the paper: the squared difference for its norm, and its mean over
  HW. Deviation from that repository: a larger map is averaged down to the smaller one. With p = 2 it
  differs from `at_mean` by the 1e-6 alone.

  Args:
    p: the power of the absolute activations, at least 1.
    student: its taps, maps [B, H, W, C].
    teacher: as many taps, of any widths.
  """

  def attention(x):
    top = losses.largest(x, (1, 2, 3))  # powers of it are not taken: they overflow, or vanish
    q = losses.flatten(jnp.sum(jnp.abs(x / top) ** p, -1))
    return q / (losses.norm(q)[:, None] + 1e-6 * top[..., 0, 0, 0, None] ** -p)

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = (losses.to_one_size(*pair) for pair in taps.stages(s, t, student, teacher, 'at_sum'))
    values = losses.total(jnp.mean((attention(a) - attention(b)) ** 2, -1) for a, b in pairs)
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
