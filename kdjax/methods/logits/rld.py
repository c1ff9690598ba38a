"""The teacher's confidence and its order of the classes below the label (RLD, Sun et al., 2408.07703)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the authors' code, beside 1 on the labels, warmed up over 20 of 240 epochs


def rld(
  *,
  alpha: NonNegative = 1.0,
  beta: NonNegative = 8.0,
  temperature: Temperature = 4.0,
  confidence_temperature: Temperature = 1.0,
  standardise: bool = False,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Refined logit distillation (arXiv 2408.07703), which keeps the teacher's mistakes out.

  alpha · T'² · KL of two-way distributions at T': the teacher's best class against its rest, the student's
  class of the label against its rest. Plus beta · T² · KL of the softmaxes at T over the classes that the
  teacher scores below the label's. Mean over the examples whose label is known. Checked against
  zju-SWJ/RLD@95224f3, mdistiller/distillers/RLD.py, where all classes are masked to -1e9 if none is below the
  label's, which gives the same.

  Args:
    alpha: the factor of the confidence.
    beta: the factor of the classes below.
    temperature: T, above 0.
    confidence_temperature: T', above 0.
    standardise: gives each example's logits mean 0 and deviation 1 over the classes first (arXiv 2403.01427).
    student: its tap, [B, C].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'rld')
    label, known = taps.labelled(q, batch, 'rld')
    if standardise:
      q, p = losses.standardise(q), losses.standardise(p)

    def two_way(logits, index):
      return losses.two_way(losses.soften(logits, confidence_temperature), index)

    confidence = losses.kl(two_way(p, jnp.argmax(p, -1)), two_way(q, label))
    below = (p < jnp.take_along_axis(p, label[:, None], -1)) & ~losses.ruled_out(p)
    least = jnp.finfo(p.dtype).min / 2
    soft_q, soft_p = (jnp.where(below, losses.soften(x, temperature), least) for x in (q, p))
    ranked = jnp.where(below.any(-1), losses.kl(soft_p, soft_q), 0)
    values = alpha * confidence_temperature**2 * confidence + beta * temperature**2 * ranked
    return taps.mean_over_examples(values, known), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
