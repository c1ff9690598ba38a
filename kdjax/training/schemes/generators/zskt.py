"""ZSKT: images on which the student disagrees with the teacher (Micaelli & Storkey, 1905.09768).

The student's loss in a recipe, for C classes: `methods = {'kd': {'weight': 1 / C, 'temperature': 1.0},
'at_mean': {'weight': 250.0, 'student': stages, 'teacher': stages}}`, with `stages = ('stage1', ...)`. 250
is the β of the paper, in whose formula the KL is a sum over the classes; the authors' code has the mean.
It trains both with Adam, the generator at 1e-3 and the student at 2e-3, both with a cosine down to 0
and gradients clipped to a norm of 5, at 128 images.
"""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Steps, Tap, Temperature
from kdjax.types import GeneratorLoss


def zskt(
  *,
  weight: NonNegative = 1.0,
  temperature: Temperature = 1.0,
  logits: Tap = 'logits',
  student_steps: Steps = 10,
) -> GeneratorLoss:
  """Zero-shot knowledge transfer (Micaelli & Storkey, arXiv 1905.09768): the generator's loss.

  -weight · KL(softmax(t / T) || softmax(s / T)), summed over the classes, mean over the images; the
  gradient goes to the images through both. No T², as in the paper, where T is 1. Deviations from the
  authors' code: it divides by the number of classes too, and takes 7 steps of the student by default,
  where the paper has 10.

  Args:
    weight: of the KL; 1 / C for the authors' gradient before it is clipped.
    temperature: T, above 0.
    logits: the tap of both, [B, C].
    student_steps: for one of the generator, on the same noise.
  """

  def loss(s, t, *, step):
    q, p = taps.tap(s, logits, 'zskt', 'student'), taps.tap(t, logits, 'zskt', 'teacher')
    return {'kl': (-weight * jnp.sum(losses.kl(p, q, temperature)), jnp.asarray(q.shape[0], q.dtype))}

  return GeneratorLoss(loss, student_steps, 'noise')
