"""The teacher's probabilities to a power, the student at T = 1: TTM and WTTM (Zheng & Yang, 2402.11148)."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 45.0  # the authors' script for CIFAR-100, beside 1 on the labels; for WTTM 76


def ttm(
  *,
  power: Annotated[float, Interval(gt=0, le=1)] = 0.2,
  weighted: bool = False,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Transformed teacher matching (arXiv 2402.11148): KL(p^γ / Z || softmax(student)), Z = Σ p^γ.

  p^γ / Z is the teacher's softmax at T = 1 / γ, and the student is at T = 1: next to `kd` that favours a
  large Rényi entropy of the student. With `weighted`, WTTM: each example's KL times its Z, larger where the
  teacher is less sure. Mean over the examples, with no factor T². Checked against zkxufo/TTM@2de9060,
  distiller_zoo/ttm.py and wttm.py.

  Args:
    power: γ, 1 / T of the teacher.
    weighted: whether it is WTTM.
    student: its tap, [..., C].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'ttm')
    log_p, log_q = jax.nn.log_softmax(losses.soften(p, 1 / power)), jax.nn.log_softmax(losses.soften(q, 1.0))
    values = losses.expected(jnp.exp(log_p), log_p - log_q)
    if weighted:
      log_power = losses.divide(jax.nn.log_softmax(losses.soften(p, 1.0)), 1 / power)
      values = values * jnp.sum(jnp.exp(log_power), -1)
    return taps.mean_over_examples(taps.mean_over_axes(values), batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
