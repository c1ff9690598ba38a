"""Raw class scores, or any tap of one shape: mean squared error (Ba & Caruana, 1312.6184)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature
from kdjax.types import Method

WEIGHT = 0.1  # Knowledge-Distillation-Zoo, mean over all elements
NUMBERS = True  # pairs the numbers of a regression as well as class scores


def logit_mse(*, temperature: Temperature = 1.0, student: Tap = 'logits', teacher: Tap = 'logits') -> Method:
  """Regression on the logits (Ba & Caruana, arXiv 1312.6184, equation 1).

  mean over the elements of (student / T - teacher / T)². The paper's ½ is left out, as in
  Knowledge-Distillation-Zoo, RepDistiller's HintLoss and TextBrewer. There is no T² factor:
  TextBrewer, which alone has a T here, divides by it and does not multiply.

  Args:
    temperature: T, above 0; an array is broadcast against the logits.
    student: its tap, [B, ...].
    teacher: its tap, of the same shape. A class that both rule out adds nothing.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'logit_mse')
    q, p = losses.both_masked(q, p)
    values = taps.mean_over_axes(jnp.square((q - p) / temperature))
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
