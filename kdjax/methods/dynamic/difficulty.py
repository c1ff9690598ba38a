"""Softened class scores, with more weight on hard examples, or easy ones first (Lin et al., 1708.02002)."""

from typing import Literal

import jax
import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Share, Tap, Temperature, Whole
from kdjax.types import Method

WEIGHT = 0.9  # that of kd in RepDistiller and mdistiller; no paper has this one

RENAMED = {'start': 'initial_pace'}  # an entry of `methods` has a start of its own
ORDERS = ('hard', 'easy')
MEASURES = ('teacher', 'label')


def difficulty(
  *,
  order: Literal['hard', 'easy'] = 'hard',
  measure: Literal['teacher', 'label'] = 'teacher',
  gamma: NonNegative = 2.0,
  initial_pace: Share = 0.5,
  steps: Whole = 10000,
  temperature: Temperature = 4.0,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Distillation weighted by how hard an example is for the student as it is now.

  w · T² · KL(softmax(teacher / T) || softmax(student / T)), mean over the examples, those of
  weight 0 among them. w comes from d = ½ Σ |target - softmax(student)| in [0, 1]: 'hard' has
  d^gamma, as the focal loss (arXiv 1708.02002, equation 4: there d is 1 less the probability of
  the label); 'easy' has 1 where d ≤ λ and else 0, as self-paced learning (Kumar et al., NeurIPS
  2010), λ growing linearly. Both papers weigh the loss with the labels. w carries no gradient.

  Args:
    order: 'hard' or 'easy'.
    measure: the target that d is the distance to: the 'teacher' at T = 1, or the 'label', where
      that is known.
    gamma: the power of 'hard'.
    initial_pace: λ of 'easy' at the first step.
    steps: of 'easy', after which λ is 1 and every example takes part.
    temperature: T, above 0.
    student: its tap, [B, C].
    teacher: its tap, of the same shape.
  """
  if order not in ORDERS:
    raise unknown('order of the method difficulty', order, ORDERS)
  if measure not in MEASURES:
    raise unknown('measure of the method difficulty', measure, MEASURES)

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'difficulty')
    target = jax.nn.softmax(p)
    if measure == 'label':
      label, batch = taps.labelled(q, batch, 'difficulty')
      target = jax.nn.one_hot(label, q.shape[-1], dtype=q.dtype)
    d = jax.lax.stop_gradient(0.5 * jnp.sum(jnp.abs(target - jax.nn.softmax(q)), -1))
    pace = initial_pace + (1 - initial_pace) * jnp.minimum(step / max(steps, 1), 1)
    weights = d**gamma if order == 'hard' else (d <= pace).astype(d.dtype)
    values = temperature**2 * taps.mean_over_axes(weights * losses.kl(p, q, temperature))
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
