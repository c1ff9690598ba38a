"""Several labels at once: KL of each class's sigmoid to the teacher's (Yang et al., 2308.06453)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature
from kdjax.types import Method

WEIGHT = 10.0  # the authors' lambda_logits, beside their label-wise embedding loss


def multi_label(
  *, temperature: Temperature = 1.0, student: Tap = 'logits', teacher: Tap = 'logits'
) -> Method:
  """Multi-label logit distillation, MLD (arXiv 2308.06453).

  T² · Σ over the classes of KL(Bernoulli(σ(teacher / T)) || Bernoulli(σ(student / T))), mean
  over the examples. The paper has no T. Deviation from the authors' code: the logarithms are
  taken of the logits, so that no probability has to be clipped to [1e-8, 1 - 1e-8].

  Args:
    temperature: T, above 0.
    student: its tap, [..., C], any axes between the batch and the classes.
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = (losses.divide(x, temperature) for x in taps.pair(s, t, student, teacher, 'multi_label'))

    def two_way(x):
      return jnp.stack([jax.nn.log_sigmoid(x), jax.nn.log_sigmoid(-x)], -1)

    each = losses.expected(jnp.exp(two_way(p)), two_way(p) - two_way(q))
    values = temperature**2 * taps.mean_over_axes(jnp.sum(each, -1))
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
