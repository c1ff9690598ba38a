"""Next-token KL from the student to a mixture of both (DistiLLM: Ko et al., 2402.03898)."""

from kdjax.nn import losses, taps
from kdjax.options import Rate, Tap
from kdjax.types import Method

WEIGHT = 1.0  # DistiLLM's scripts, in the place of the loss on the labels


def skewed_reverse_kl(
  *,
  skew: Rate = 0.1,
  mask: str | None = 'text/mask',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
) -> Method:
  """Skew reverse KL of DistiLLM (arXiv 2402.03898): KL(q || (1 - λ) p + λ q), mean over the tokens.

  q and p are the softmax of the student's and the teacher's logits. A token of the vocabulary that
  either model rules out with a logit of -inf takes no part.

  Args:
    skew: λ, the share of the STUDENT in the mixture, from 0 (plain reverse KL) to below 1.
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its tap, [B, L, V].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'skewed_reverse_kl')
    log_q, log_p, allowed = losses.log_distributions(a, b)
    values = losses.divergence(log_q, losses.log_mixture(log_q, log_p, skew), allowed)
    weights = taps.positions(values, batch, mask, 'skewed_reverse_kl')
    return taps.mean_over_positions(values, weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
