"""Several teachers as one: KL to the mean of their softened probabilities (as in MobileCLIP)."""

import math

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap, Taps, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # CA-MKD's repository for the mean of the teachers' losses, which has this gradient; T = 4


def mean_probabilities(
  *, temperature: Temperature = 4.0, student: Tap = 'logits', teachers: Taps = ('logits',)
) -> Method:
  """Distillation from the mean of several teachers' probabilities (arXiv 1503.02531, section 3).

  T² · KL(mean_k softmax(z_k / T) || softmax(student / T)), mean over the examples. Its gradient is
  that of the mean of the KL to each teacher; the value is smaller by how far the teachers disagree.

  Args:
    temperature: T, above 0.
    student: its tap, [..., C].
    teachers: a tap of each, `<teacher>/<tap>` of the members of an `ensemble`, of the student's shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = [taps.pair(s, t, student, name, 'mean_probabilities') for name in teachers]
    logs = [jax.nn.log_softmax(losses.soften(p, temperature)) for _, p in pairs]
    log_mean = jax.nn.logsumexp(jnp.stack(logs), 0) - math.log(len(logs))
    q = losses.soften(pairs[0][0], temperature)
    values = temperature**2 * taps.mean_over_axes(losses.kl(log_mean, q))
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
