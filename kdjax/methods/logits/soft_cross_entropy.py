"""Softened class scores: cross-entropy to the teacher, with no T² factor (TextBrewer, 2002.12620)."""

from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # TextBrewer's kd_loss_weight, with T = 4


def soft_cross_entropy(
  *, temperature: Temperature = 4.0, student: Tap = 'logits', teacher: Tap = 'logits'
) -> Method:
  """Distillation as TextBrewer has it (arXiv 2002.12620, kd_loss_type 'ce').

  -Σ softmax(teacher / T) · log softmax(student / T), summed over the classes, mean over the
  examples. TextBrewer does not multiply by T²: the gradient shrinks as T grows. The teacher's
  entropy is not taken off, so the loss is not 0 where the two agree. `kd` has both.

  Args:
    temperature: T, above 0; an array is broadcast against the logits.
    student: its tap, [..., C], any axes between the batch and the classes.
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'soft_cross_entropy')
    values = taps.mean_over_axes(losses.soft_cross_entropy(p, q, temperature))
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
