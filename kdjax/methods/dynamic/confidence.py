"""Softened class scores, weighted by the teacher's confidence (Furlanello et al., 1805.04770)."""

from typing import Literal

import jax
import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature
from kdjax.types import Method

WEIGHT = 0.9  # that of kd in RepDistiller and mdistiller: the weights have mean 1

MEASURES = ('max', 'label', 'entropy')


def confidence(
  *,
  measure: Literal['max', 'label', 'entropy'] = 'max',
  normalise: bool = True,
  temperature: Temperature = 4.0,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Distillation weighted by the teacher's confidence (the weights of arXiv 1805.04770, CWTM).

  T² · Σ w · KL(softmax(teacher / T) || softmax(student / T)) / Σ w over the examples.
  Deviation from CWTM: that weighs the cross-entropy with the labels in this way. Normalised, it
  counts once a batch, and padding takes no part in it.

  Args:
    measure: w. 'max' is the teacher's largest probability at T = 1; 'label' the one it gives
      to the label, where that is known; 'entropy' its entropy at T, which favours the examples
      that it is not sure of and with normalise=False is ER-KD (arXiv 2311.13621, version 1).
    normalise: divides by the sum of the weights; else by the number of examples.
    temperature: T, above 0.
    student: its tap, [B, C].
    teacher: its tap, of the same shape.
  """
  if measure not in MEASURES:
    raise unknown('measure of the method confidence', measure, MEASURES)

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'confidence')
    if measure == 'label':
      label, batch = taps.labelled(p, batch, 'confidence')
      weights = jnp.take_along_axis(jax.nn.softmax(p), label[:, None], -1)[:, 0]
    elif measure == 'max':
      weights = jax.nn.softmax(p).max(-1)
    else:
      weights = losses.soft_cross_entropy(p, p, temperature)
    values = temperature**2 * taps.mean_over_axes(weights * losses.kl(p, q, temperature))
    weighted = taps.mean_over_examples(values, batch)
    if not normalise:
      return weighted, stats
    total, _ = taps.mean_over_examples(taps.mean_over_axes(weights), batch)
    return taps.as_batch_term((weighted[0], total)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=normalise)
