"""Total variation distance of the next token (f-distill: Wen et al., 2307.15190)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 1.0  # DistiLLM's scripts, in the place of the loss on the labels


def tvd(
  *, mask: str | None = 'text/mask', student: Tap = 'text/logits', teacher: Tap = 'text/logits'
) -> Method:
  """½ Σ |p - q| of the next token, mean over the tokens that count (arXiv 2307.15190).

  p and q are the softmax of the teacher's and the student's logits. As in DistiLLM's code, a token
  of the vocabulary that either model rules out with a logit of -inf takes no part.

  Args:
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its tap, [B, L, V].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'tvd')
    log_q, log_p, allowed = losses.log_distributions(a, b)
    values = 0.5 * jnp.sum(jnp.where(allowed, jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), 0), -1)
    weights = taps.positions(values, batch, mask, 'tvd')
    return taps.mean_over_positions(values, weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
