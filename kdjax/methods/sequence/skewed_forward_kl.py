"""Next-token KL from the teacher to a mixture of both (DistiLLM: Ko et al., 2402.03898)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Rate, Tap
from kdjax.types import Method

WEIGHT = 1.0  # DistiLLM's scripts, in the place of the loss on the labels


def skewed_forward_kl(
  *,
  skew: Rate = 0.1,
  entropy: bool = True,
  mask: str | None = 'text/mask',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
) -> Method:
  """Skew KL of DistiLLM (arXiv 2402.03898): KL(p || λ p + (1 - λ) q), mean over the tokens that count.

  p and q are the softmax of the teacher's and the student's logits. A token of the vocabulary that
  either model rules out with a logit of -inf takes no part.

  Args:
    skew: λ, the share of the TEACHER in the mixture, from 0 (plain KL) to below 1.
    entropy: whether the teacher's entropy is taken off, so that the loss is 0 where the two agree;
      DistiLLM's code leaves it in (False). The gradient is the same.
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its tap, [B, L, V].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'skewed_forward_kl')
    log_q, log_p, allowed = losses.log_distributions(a, b)
    log_m = losses.log_mixture(log_p, log_q, skew)
    if entropy:
      values = losses.divergence(log_p, log_m, allowed)
    else:
      values = -jnp.sum(jnp.where(allowed, jnp.exp(log_p) * log_m, 0), -1)
    weights = taps.positions(values, batch, mask, 'skewed_forward_kl')
    return taps.mean_over_positions(values, weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
