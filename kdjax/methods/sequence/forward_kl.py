"""Next-token KL from teacher to student, mean over tokens (as in DistiLLM: Ko et al., 2402.03898)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # Distil-Whisper, at T = 2, beside 0.8 on the teacher's tokens (seq_kd)


def forward_kl(
  *,
  temperature: Temperature = 1.0,
  entropy: bool = True,
  mask: str | None = 'text/mask',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
) -> Method:
  """T² · KL(p || q) of the next token, mean over the tokens that count.

  p and q are the softmax of the teacher's and the student's logits / T. It is kd with a mask: no
  sequence weighs more than its tokens. A token of the vocabulary that either model rules out with
  a logit of -inf takes no part.

  Args:
    temperature: T, above 0.
    entropy: whether the teacher's entropy is taken off, so that the loss is 0 where the two agree;
      False gives -Σ p log q, as DistiLLM (arXiv 2402.03898) logs it. The gradient is the same.
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its tap, [B, L, V]; position i predicts the token that its target says.
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'forward_kl')
    log_q, log_p, allowed = losses.log_distributions(a, b, temperature)
    if entropy:
      values = losses.divergence(log_p, log_q, allowed)
    else:
      values = -jnp.sum(jnp.where(allowed, jnp.exp(log_p) * log_q, 0), -1)
    weights = taps.positions(values, batch, mask, 'forward_kl')
    return taps.mean_over_positions(temperature**2 * values, weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
