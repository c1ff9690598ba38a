"""A mix of forward and reverse next-token KL, mean over tokens (DistiLLM: Ko et al., 2402.03898)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Share, Tap
from kdjax.types import Method

WEIGHT = 1.0  # DistiLLM's scripts, in the place of the loss on the labels


def symmetric_kl(
  *,
  reverse: Share = 0.9,
  entropy: bool = True,
  mask: str | None = 'text/mask',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
) -> Method:
  """(1 - λ) · KL(p || q) + λ · KL(q || p) of the next token, mean over the tokens that count.

  A baseline in the code of DistiLLM (arXiv 2402.03898); p and q are the softmax of the teacher's and
  the student's logits. A token of the vocabulary that either model rules out with a logit of -inf
  takes no part.

  Args:
    reverse: λ, from 0 to 1.
    entropy: whether the teacher's entropy is taken off the forward term; DistiLLM's code leaves it
      in (False). The gradient is the same.
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its tap, [B, L, V].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'symmetric_kl')
    log_q, log_p, allowed = losses.log_distributions(a, b)
    if entropy:
      forward = losses.divergence(log_p, log_q, allowed)
    else:
      forward = -jnp.sum(jnp.where(allowed, jnp.exp(log_p) * log_q, 0), -1)
    values = (1 - reverse) * forward + reverse * losses.divergence(log_q, log_p, allowed)
    weights = taps.positions(values, batch, mask, 'symmetric_kl')
    return taps.mean_over_positions(values, weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
