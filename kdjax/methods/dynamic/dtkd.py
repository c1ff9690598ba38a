"""A temperature each for student and teacher that evens their sharpness (Wei & Bai, 2404.12711)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature
from kdjax.types import Method

WEIGHT = 3.0  # the authors' code, beside 1 on kd at T = 4 and 1 on the labels, warmed up


def dtkd(*, temperature: Temperature = 4.0, student: Tap = 'logits', teacher: Tap = 'logits') -> Method:
  """Dynamic temperature knowledge distillation (arXiv 2404.12711).

  T_S · T_T · KL(softmax(teacher / T_T) || softmax(student / T_S)) with T_S = 2T · x / (x + y)
  and T_T = 2T · y / (x + y), x and y the largest logit of the student and of the teacher, for
  each example; mean over the examples. The student's gradient flows through both temperatures,
  as in the authors' code. Deviation: x and y are taken as at least 1e-3, where the formula has
  temperatures below 0 or without bound. The paper's loss has `kd` beside it.

  Args:
    temperature: T, the mean of the two temperatures.
    student: its tap, [..., C], any axes between the batch and the classes.
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'dtkd')
    x, y = (jnp.maximum(z.max(-1, keepdims=True), 1e-3) for z in (q, p))
    t_s, t_t = 2 * temperature * x / (x + y), 2 * temperature * y / (x + y)
    values = losses.kl(losses.soften(p, t_t), losses.soften(q, t_s)) * (t_s * t_t)[..., 0]
    return taps.mean_over_examples(taps.mean_over_axes(values), batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
