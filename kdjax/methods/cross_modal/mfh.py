"""Class scores of a teacher of another modality: plain KL at T = 1 (Xue et al., 2206.06487)."""

from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 1.0  # the authors' pl_weight, beside 1 (Gaussian data) or 0 (RAVDESS, VGGSound) on the labels


def mfh(*, over_classes: bool = False, student: Tap = 'logits', teacher: Tap = 'logits') -> Method:
  """Cross-modal distillation of the Modality Focusing Hypothesis (arXiv 2206.06487).

  KL(softmax(teacher) || softmax(student)), summed over the classes, mean over the examples: `kd`
  at T = 1. What makes it cross-modal are the inputs of the two models.

  Args:
    over_classes: also divides by the number of classes, as the authors' code does for the Gaussian
      data and RAVDESS (their KLDivLoss takes the mean), but not for VGGSound.
    student: its tap, [..., C].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'mfh')
    values = taps.mean_over_axes(losses.kl(p, q)) / (q.shape[-1] if over_classes else 1)
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
