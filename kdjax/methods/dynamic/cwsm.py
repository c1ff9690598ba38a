"""Sharper scores where the student is unsure (Wen et al., 1911.07471, CWSM)."""

import jax

from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # TextBrewer's kd_loss_weight


def temperatures(student_logits, batch, temperature, beta, minimum):
  """One temperature for each example or position: `[B, ..., C] -> [B, ...]`."""
  weights = 1 / (jax.nn.softmax(student_logits).max(-1) + 1e-3)
  return taps.shifted_temperature(weights, batch, temperature, beta, minimum)


def cwsm(
  *,
  temperature: Temperature = 4.0,
  beta: NonNegative = 1.0,
  minimum: Temperature = 1.0,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Dynamic temperature distillation, confidence weighted by student max (arXiv 1911.07471).

  -Σ softmax(teacher / τ) · log softmax(student / τ), mean over the examples, each with its own
  τ = T + (mean w - w) · beta, w = 1 / (max softmax(student) + 1e-3), the mean over the batch. τ
  carries no gradient. It counts once a batch, and padding takes no part in it. As in
  TextBrewer, there is no τ² and the entropy of the teacher stays in. Deviation: τ is kept from
  falling below a minimum, since w grows with the number of classes.

  Args:
    temperature: T, the mean of τ.
    beta: how far τ moves.
    minimum: the least τ, above 0.
    student: its tap, [..., C], any axes between the batch and the classes.
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'cwsm')
    tau = temperatures(jax.lax.stop_gradient(q), batch, temperature, beta, minimum)[..., None]
    values = taps.mean_over_axes(losses.soft_cross_entropy(p, q, tau))
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
