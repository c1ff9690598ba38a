"""Generalised Jensen-Shannon divergence of the next token (GKD: Agarwal et al., 2306.13649)."""

from kdjax.nn import losses, taps
from kdjax.options import Share, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the paper and TRL, in the place of the loss on the labels


def gkd(
  *,
  beta: Share = 0.5,
  temperature: Temperature = 1.0,
  mask: str | None = 'text/mask',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
) -> Method:
  """The divergence of generalised knowledge distillation (arXiv 2306.13649, equation 1).

  β · KL(p || m) + (1 - β) · KL(q || m), m = β p + (1 - β) q, mean over the tokens that count; p and q
  are the softmax of the teacher's and the student's logits / T. As in TRL, β = 0 is KL(p || q) and
  β = 1 is KL(q || p), where the formula itself goes to 0. There is no T², as in the paper and TRL.
  The sequences are whatever the batch holds: on-policy training is a matter of the data. A token
  of the vocabulary that either model rules out with a logit of -inf takes no part.

  Args:
    beta: β, from 0 to 1.
    temperature: T, above 0; TRL uses the 0.9 that it samples with.
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its tap, [B, L, V].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'gkd')
    log_q, log_p, allowed = losses.log_distributions(a, b, temperature)
    if beta == 0:
      values = losses.divergence(log_p, log_q, allowed)
    elif beta == 1:
      values = losses.divergence(log_q, log_p, allowed)
    else:
      log_m = losses.log_mixture(log_p, log_q, beta)
      values = beta * losses.divergence(log_p, log_m, allowed)
      values += (1 - beta) * losses.divergence(log_q, log_m, allowed)
    weights = taps.positions(values, batch, mask, 'gkd')
    return taps.mean_over_positions(values, weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
