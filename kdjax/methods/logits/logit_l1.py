"""Raw class scores: mean absolute error (Fang et al., 1912.11006, DFAD)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 1.0  # DFAD, its only loss, on generated images
NUMBERS = True  # pairs the numbers of a regression as well as class scores


def logit_l1(*, student: Tap = 'logits', teacher: Tap = 'logits') -> Method:
  """Mean absolute error of the logits, the student's loss of DFAD (arXiv 1912.11006).

  mean over the elements of |student - teacher|, mean over the examples. Its gradient does not shrink as
  the two come closer, which the squares of `logit_mse` do.

  Args:
    student: its tap, [B, ...].
    teacher: its tap, of the same shape. A class that both rule out adds nothing.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'logit_l1')
    q, p = losses.both_masked(q, p)
    return taps.mean_over_examples(taps.mean_over_axes(jnp.abs(q - p)), batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
