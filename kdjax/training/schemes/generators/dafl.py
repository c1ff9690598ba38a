"""DAFL: images that the teacher is sure of, each class as often (Chen et al., 1904.01186).

The student's loss in a recipe, on the same images as the generator's step:
`methods = {'kd': {'weight': 1.0, 'temperature': 1.0}}`. The authors' code trains both with Adam, at 512
images a step and 120 steps an epoch: the generator at 0.2 and the student at 2e-3 on MNIST.
"""

import math

import jax
import jax.numpy as jnp

from kdjax.nn import taps
from kdjax.options import NonNegative, Steps, Tap
from kdjax.types import GeneratorLoss


def dafl(
  *,
  one_hot: NonNegative = 1.0,
  activation: NonNegative = 0.1,
  entropy: NonNegative = 5.0,
  feature: Tap = 'embed',
  logits: Tap = 'logits',
  student_steps: Steps = 1,
) -> GeneratorLoss:
  """Data-free learning (Chen et al., arXiv 1904.01186), with the weights of its code on MNIST.

  one_hot · CE(t, argmax t) - activation · mean |f_t| + entropy · Σ_c p_c log10 p_c, where p is the mean
  over the batch of softmax(t). The generator does not see the student. As in the authors' code, and not
  in the paper, the logarithm of the entropy, and of it alone, has base 10, and there is no 1 / C before
  it. On CIFAR that code has the weights 0.05, 0.01 and 5.

  Args:
    one_hot: weight of the cross-entropy to the teacher's own top class.
    activation: weight of the mean absolute value of the feature.
    entropy: weight of the entropy of the mean scores.
    feature: the teacher's tap, [B, ...].
    logits: the teacher's tap, [B, C].
    student_steps: for one of the generator, all on the same images.
  """

  def loss(s, t, *, step):
    z, f = (taps.tap(t, name, 'dafl', 'teacher') for name in (logits, feature))
    log_p = jax.nn.log_softmax(z)
    mean = jnp.exp(log_p).mean(0)
    plogp = jnp.where(mean > 0, mean * jnp.log(jnp.where(mean > 0, mean, 1)), 0) / math.log(10)
    n, one = jnp.asarray(z.shape[0], z.dtype), jnp.ones((), z.dtype)
    return {
      'one_hot': (-one_hot * jnp.sum(log_p.max(-1)), n),
      'activation': (-activation * jnp.sum(taps.mean_over_axes(jnp.abs(f))), n),
      'entropy': (entropy * jnp.sum(plogp), one),
    }

  return GeneratorLoss(loss, student_steps, 'same')
