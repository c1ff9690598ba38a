"""Next-token KL from student to teacher, mean over tokens (as in MiniLLM: Gu et al., 2306.08543)."""

from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 1.0  # DistiLLM's scripts, in the place of the loss on the labels


def reverse_kl(
  *, mask: str | None = 'text/mask', student: Tap = 'text/logits', teacher: Tap = 'text/logits'
) -> Method:
  """KL(q || p) of the next token, mean over the tokens that count (DistiLLM, arXiv 2402.03898).

  q and p are the softmax of the student's and the teacher's logits. This is the divergence of each
  step on the given tokens; minillm adds the effect of a token on the later ones. A token of the
  vocabulary that either model rules out with a logit of -inf takes no part.

  Args:
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its tap, [B, L, V].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'reverse_kl')
    log_q, log_p, allowed = losses.log_distributions(a, b)
    values = losses.divergence(log_q, log_p, allowed)
    weights = taps.positions(values, batch, mask, 'reverse_kl')
    return taps.mean_over_positions(values, weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
