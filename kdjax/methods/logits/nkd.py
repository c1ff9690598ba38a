"""Target class weighed by the teacher, other classes renormalised (Yang et al., 2303.13005)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # cls_KD, beside 1 on the labels


def nkd(
  *,
  gamma: NonNegative = 1.5,
  temperature: Temperature = 1.0,
  keep_target: bool = False,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Normalised knowledge distillation (arXiv 2303.13005).

  -p[label] · log q[label] at T = 1, plus gamma · T² · cross-entropy of the softmaxes over the
  other classes at T; mean over the examples whose label is known. Two cross-entropies: the loss
  is not 0 where the two agree.

  Args:
    gamma: the factor of the other classes.
    temperature: T of the other classes, above 0.
    keep_target: leaves the label's class among the others, as one revision of cls_KD does.
    student: its tap, [B, C].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'nkd')
    label, known = taps.labelled(q, batch, 'nkd')

    def at_label(x):
      return jnp.take_along_axis(jax.nn.log_softmax(x), label[:, None], -1)[:, 0]

    target = -losses.expected(jnp.exp(at_label(p))[:, None], at_label(q)[:, None])
    q, p = (losses.soften(x, temperature) for x in (q, p))
    if not keep_target:
      q, p = losses.without_class(q, label), losses.without_class(p, label)
    values = target + gamma * temperature**2 * losses.soft_cross_entropy(p, q)
    return taps.mean_over_examples(values, known), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
