"""DFAD: images on which the student's class scores differ from the teacher's (Fang et al., 1912.11006).

The student's loss in a recipe, on new images at every step: `methods = {'logit_l1': {'weight': 1.0}}`. The
authors' code trains the generator with Adam at 1e-3, and the student with SGD of momentum 0.9 at 0.1
and 256 images on CIFAR, at 0.01 and 512 images on MNIST.
"""

import jax.numpy as jnp

from kdjax.nn import taps
from kdjax.options import NonNegative, Steps, Tap
from kdjax.types import GeneratorLoss


def dfad(
  *,
  weight: NonNegative = 1.0,
  log: bool = False,
  logits: Tap = 'logits',
  student_steps: Steps = 5,
) -> GeneratorLoss:
  """Data-free adversarial distillation (Fang et al., arXiv 1912.11006): the generator's loss.

  -weight · mean |s - t| over images and classes; the gradient goes to the images through both.

  Args:
    weight: of the distance.
    log: -weight · log(1 + mean |s - t|) instead, which the authors' code has beside it, commented out.
    logits: the tap of both, [B, C].
    student_steps: for one of the generator, each on images of its own.
  """

  def loss(s, t, *, step):
    q, p = taps.tap(s, logits, 'dfad', 'student'), taps.tap(t, logits, 'dfad', 'teacher')
    values = taps.mean_over_axes(jnp.abs(q - p))
    if log:
      return {'l1': (-weight * jnp.log1p(values.mean()), jnp.ones((), q.dtype))}
    return {'l1': (-weight * jnp.sum(values), jnp.asarray(values.shape[0], q.dtype))}

  return GeneratorLoss(loss, student_steps, 'fresh')
