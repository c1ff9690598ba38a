"""Sharper scores where the student's differ from the teacher's (Wen et al., 1911.07471, FLSW)."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # TextBrewer's kd_loss_weight


def temperatures(student_logits, teacher_logits, batch, temperature, beta, gamma, minimum):
  """One temperature for each example or position: `[B, ..., C] -> [B, ...]`."""

  def unit(x):
    x = losses.zero_masked(x)
    return x / (losses.norm(x)[..., None] + 1e-4)

  cosine = jnp.sum(unit(student_logits) * unit(teacher_logits), -1)
  weights = jnp.maximum(1 - cosine, 0) ** gamma
  return taps.shifted_temperature(weights, batch, temperature, beta, minimum)


def flsw(
  *,
  temperature: Temperature = 4.0,
  beta: NonNegative = 1.0,
  gamma: Annotated[float, Interval(ge=0, le=20)] = 2.0,
  minimum: Temperature = 1.0,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Dynamic temperature distillation with focal-loss-style weights (arXiv 1911.07471).

  -Σ softmax(teacher / τ) · log softmax(student / τ), mean over the examples, each with its own
  τ = T + (mean w - w) · beta, w = (1 - cos(student, teacher))^gamma, the mean over the batch. τ
  carries no gradient. It counts once a batch, and padding takes no part in it. As in
  TextBrewer, 1e-4 is added to the norms, there is no τ² and the entropy of the teacher stays
  in. Deviation: τ is kept from falling below a minimum.

  Args:
    temperature: T, the mean of τ.
    beta: how far τ moves.
    gamma: the power of the weights.
    minimum: the least τ, above 0.
    student: its tap, [..., C], any axes between the batch and the classes.
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'flsw')
    fixed = jax.lax.stop_gradient(q)
    tau = temperatures(fixed, p, batch, temperature, beta, gamma, minimum)[..., None]
    values = taps.mean_over_axes(losses.soft_cross_entropy(p, q, tau))
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
