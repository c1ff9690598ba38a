"""The alpha-beta divergence, between KL and reverse KL and beyond (ABKD, Wang et al., 2505.04560)."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0
Exponent = Annotated[float, Interval(ge=0, le=4)]


def divergence(log_p, log_q, alpha: float, beta: float):
  """The alpha-beta divergence of p from q, `[..., C] -> [...]`, of Cichocki et al. (Entropy 13, 2011)."""
  p, q = jnp.exp((alpha + beta) * log_p), jnp.exp((alpha + beta) * log_q)
  if not alpha and not beta:
    a, b = losses.both_masked(log_p, log_q)
    return 0.5 * jnp.sum(jnp.square(a - b), -1)
  if not beta:
    return (losses.expected(p, alpha * (log_p - log_q)) - jnp.sum(p - q, -1)) / alpha**2
  if not alpha:
    return (losses.expected(q, beta * (log_q - log_p)) - jnp.sum(q - p, -1)) / beta**2
  mixed = jnp.exp(alpha * log_p + beta * log_q)
  total = alpha + beta
  return jnp.sum(p / (beta * total) + q / (alpha * total) - mixed / (alpha * beta), -1)


def abkd(
  *,
  alpha: Exponent = 0.5,
  beta: Exponent = 0.5,
  temperature: Temperature = 4.0,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """alpha-beta distillation (arXiv 2505.04560, equation 5), mean over the examples, times T².

  -1 / (α β) · Σ (p^α q^β - α / (α + β) · p^(α + β) - β / (α + β) · q^(α + β)), of the softmaxes at T. α = 1
  and β = 0 is the KL of the teacher, α = 0 and β = 1 the reverse KL, both 0.5 is four times the squared
  Hellinger distance; with either at 0 it is the limit, which is exact here. Checked against
  ghwang-s/abkd@a0fb144, standard_classification/distiller_zoo/abkl.py. Deviations: T², which the authors have
  in the weight; at β = 0 or α = 0 their code divides by α and not by α², as the limit of their own equation
  does, which agrees at 1 alone; exponents below 0 are not offered, since they weigh a class of probability 0
  without bound.

  Args:
    alpha: α, larger for more weight on where the teacher is sure.
    beta: β, larger for more weight on where the student is sure.
    temperature: T, above 0.
    student: its tap, [..., C], any axes between the batch and the classes.
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'abkd')
    log_q, log_p = (jax.nn.log_softmax(losses.soften(x, temperature)) for x in (q, p))
    values = temperature**2 * divergence(log_p, log_q, alpha, beta)
    return taps.mean_over_examples(taps.mean_over_axes(values), batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
