"""Progressive self-distillation: labels mixed with the student's past scores (Kim et al., 2006.12000)."""

from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 0.8  # the paper's α_T, reached at the end: set `warmup` to 1, beside 1 on the labels


def ps_kd(*, student: Tap = 'logits', teacher: Tap = 'logits') -> Method:
  """Self-knowledge distillation with progressive refinement of targets (arXiv 2006.12000).

  CE(softmax(teacher), softmax(student)) - CE(label, softmax(student)), mean over the examples with a
  known label. Beside the labels' cross-entropy at weight 1, a weight of α makes that
  CE((1 - α) · label + α · softmax(teacher), softmax(student)), with a single softmax at T = 1. The
  teacher is to be the student itself as it was at the end of the last epoch, and α is to grow linearly
  from 0 (`warmup=1.0`). The loss alone may be negative.

  Deviation: α grows with every step, not with every epoch.

  Args:
    student: its tap, [B, C].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'ps_kd')
    label, known = taps.labelled(q, batch, 'ps_kd')
    values = losses.soft_cross_entropy(p, q) + losses.log_likelihood(q, label)
    return taps.mean_over_examples(values, known), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
