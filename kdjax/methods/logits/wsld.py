"""Softened class scores, weighted by the student's loss over the teacher's (Zhou et al., 2102.00650)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature
from kdjax.types import Method

WEIGHT = 2.5  # the authors' code on ImageNet, beside 1 on the labels, with T = 2


def wsld(*, temperature: Temperature = 2.0, student: Tap = 'logits', teacher: Tap = 'logits') -> Method:
  """Weighted soft labels (arXiv 2102.00650).

  T² · w · CE(softmax(teacher / T), softmax(student / T)) with w = 1 - exp(-CE_S / CE_T), the
  student's and the teacher's cross-entropy with the label at T = 1; mean over the examples
  whose label is known. w carries no gradient. 1e-7 is added to CE_T, as in the authors' code.

  Args:
    temperature: T, above 0.
    student: its tap, [B, C].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'wsld')
    label, known = taps.labelled(q, batch, 'wsld')

    def hard(x):
      return -jnp.take_along_axis(jax.nn.log_softmax(x), label[:, None], -1)[:, 0]

    weights = jax.lax.stop_gradient(-jnp.expm1(-hard(q) / (hard(p) + 1e-7)))
    values = temperature**2 * weights * losses.soft_cross_entropy(p, q, temperature)
    return taps.mean_over_examples(values, known), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
