"""Softened class scores: KL to the teacher at a temperature (Hinton et al., 1503.02531)."""

from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature
from kdjax.types import Method

WEIGHT = 0.9  # RepDistiller and mdistiller, beside 0.1 on the labels, at T = 4


def kd(
  *,
  temperature: Temperature = 4.0,
  standardise: bool = False,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Knowledge distillation of Hinton, Vinyals & Dean (arXiv 1503.02531, section 2).

  T² · KL(softmax(teacher / T) || softmax(student / T)), summed over the classes, mean over the
  examples. The factor T² keeps the size of the gradient as T changes. The teacher's entropy is
  part of it, so the loss is 0 where the two agree. With T = 1 this is plain CE + weight · KL.

  Args:
    temperature: T, above 0.
    standardise: gives each example's logits mean 0 and deviation 1 over the classes first
      (arXiv 2403.01427, algorithm 1); its authors use T = 2 with weight 9, beside 0.1 on the
      labels.
    student: its tap, [..., C], any axes between the batch and the classes.
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'kd')
    if standardise:
      q, p = losses.standardise(q), losses.standardise(p)
    values = temperature**2 * taps.mean_over_axes(losses.kl(p, q, temperature))
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
