"""Attention maps: the mean of the squared channels at each position (Zagoruyko et al., 1612.03928)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Power, Stages
from kdjax.types import Method

WEIGHT = 1000.0  # RepDistiller and mdistiller, p = 2, summed over the stages

STAGES = ('image/stage1', 'image/stage2', 'image/stage3')


def at_mean(*, p: Power = 2, student: Stages = STAGES, teacher: Stages = STAGES) -> Method:
  """Attention transfer (arXiv 1612.03928, section 3.1) in the form of RepDistiller and mdistiller.

  Σ over stages of the mean over HW of (n(mean_c f_S^p) - n(mean_c f_T^p))², n the L2 norm over the
  map; a larger map is averaged down to the smaller one first. Deviations from the paper: the
  squared difference for its norm, its mean over HW, and the mean of the channels for their sum,
  which the norm cancels. `at_sum` takes absolute values first.

  Args:
    p: the power of the activations, a whole number; an odd one keeps signs.
    student: its taps, maps [B, H, W, C].
    teacher: as many taps, of any widths.
  """

  def attention(x):
    return losses.unit(losses.flatten(jnp.mean(losses.scaled(x, (1, 2, 3)) ** p, -1)))

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = (losses.to_one_size(*pair) for pair in taps.stages(s, t, student, teacher, 'at_mean'))
    values = losses.total(jnp.mean((attention(a) - attention(b)) ** 2, -1) for a, b in pairs)
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
