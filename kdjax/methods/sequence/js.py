"""Skewed Jensen-Shannon divergence of the next token (as in DistiLLM: Ko et al., 2402.03898)."""

from kdjax.nn import losses, taps
from kdjax.options import Share, Tap
from kdjax.types import Method

WEIGHT = 1.0  # DistiLLM's scripts, in the place of the loss on the labels


def js(
  *,
  share: Share = 0.9,
  mask: str | None = 'text/mask',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
) -> Method:
  """λ · KL(q || m) + (1 - λ) · KL(p || m), m = λ q + (1 - λ) p, mean over the tokens that count.

  A baseline in the code of DistiLLM (arXiv 2402.03898); p and q are the softmax of the teacher's and
  the student's logits. Between 0 and 1 it is gkd with beta = 1 - λ. At 0 and 1 it is 0. A token of
  the vocabulary that either model rules out with a logit of -inf takes no part.

  Args:
    share: λ, the share of the STUDENT in the mixture; 0.5 is the symmetric one.
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its tap, [B, L, V].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'js')
    log_q, log_p, allowed = losses.log_distributions(a, b)
    log_m = losses.log_mixture(log_q, log_p, share)
    values = share * losses.divergence(log_q, log_m, allowed)
    values += (1 - share) * losses.divergence(log_p, log_m, allowed)
    weights = taps.positions(values, batch, mask, 'js')
    return taps.mean_over_positions(values, weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
