"""A learned temperature that makes the task harder and harder (Li et al., 2211.16231, CTKD)."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature, Whole
from kdjax.types import Method

WEIGHT = 0.9  # the authors' script, beside 0.1 on the labels
RENAMED = {'start': 'minimum'}  # an entry of `methods` has a start of its own


def temperature(theta, minimum, span):
  return minimum + span * jax.nn.sigmoid(theta)


def ctkd(
  *,
  minimum: Temperature = 1.0,
  span: Annotated[float, Interval(ge=0, le=1e4)] = 20.0,
  steps: Whole = 7820,
  standardise: bool = False,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Curriculum temperature, the variant with one global temperature (arXiv 2211.16231).

  T² · KL(softmax(teacher / T) || softmax(student / T)) with T = minimum + span · σ(θ), mean over
  the examples; θ starts at 1. The student lowers the loss and θ raises it: its gradient, T²
  among it, is multiplied by λ, which goes from 0 to -1 along a half cosine and stays there.
  Deviation from the authors' code: λ changes with every step, not with every epoch.

  Args:
    minimum: the lowest T.
    span: T stays below minimum + span.
    steps: over which λ goes from 0 to -1; 0 has -1 throughout. The authors take 10 epochs,
      which is the default for CIFAR-100 in batches of 64.
    standardise: gives each example's logits mean 0 and deviation 1 over the classes first
      (arXiv 2403.01427).
    student: its tap, [..., C], any axes between the batch and the classes.
    teacher: its tap, of the same shape.
  """

  def init(rng, s, t, batch):
    return {'theta': jnp.ones(())}, {}

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'ctkd')
    if standardise:
      q, p = losses.standardise(q), losses.standardise(p)
    share = jnp.minimum(step / steps, 1) if steps else 1.0
    reversal = -0.5 * (1 - jnp.cos(jnp.pi * share))
    fixed = jax.lax.stop_gradient(params['theta'])
    T = temperature(fixed + reversal * (params['theta'] - fixed), minimum, span)
    values = T**2 * taps.mean_over_axes(losses.kl(p, q, T))
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
