"""Correlation of the class probabilities, by example and by class (Huang et al., 2205.10536)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Tap, Temperature
from kdjax.types import Method

WEIGHT = 2.0  # torchdistill on ImageNet, beside 1 on the labels: the paper's beta = gamma = 2


def dist(
  *,
  beta: NonNegative = 1.0,
  gamma: NonNegative = 1.0,
  temperature: Temperature = 1.0,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """DIST, knowledge distillation from a stronger teacher (arXiv 2205.10536).

  T² · (beta · (1 - mean over the examples of Pearson's correlation over the classes)
  + gamma · (1 - mean over the classes of the correlation over the batch)), of the softmaxes at
  T; 1e-8 is added to each product of norms. It counts once a batch, and padding takes no part
  in it. Where both agree it is 0 up to the 1e-8. For segmentation every position is an example.

  Args:
    beta: the factor between the classes of an example.
    gamma: the factor between the examples of a class.
    temperature: T, above 0; 4 on CIFAR-100, 1 on ImageNet. The authors' first release has no T.
    student: its tap, [..., C], any axes between the batch and the classes.
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'dist')
    mask = taps.example_mask(batch, q).reshape(-1, *[1] * (q.ndim - 2))
    mask = jnp.broadcast_to(mask, q.shape[:-1]).reshape(-1, 1)
    n = jnp.maximum(mask.sum(), 1)
    q, p = (jax.nn.softmax(losses.soften(x, temperature)).reshape(-1, x.shape[-1]) for x in (q, p))

    def correlation(x, y, axis):
      return jnp.sum(x * y, axis) / (losses.norm(x, axis) * losses.norm(y, axis) + 1e-8)

    def by_example(x):
      return x - x.mean(-1, keepdims=True)

    def by_class(x):
      return (x - jnp.sum(x * mask, 0) / n) * mask

    inter = jnp.sum((1 - correlation(by_example(q), by_example(p), -1)) * mask[:, 0]) / n
    intra = jnp.mean(1 - correlation(by_class(q), by_class(p), 0)) * (mask.sum() > 0)
    return (temperature**2 * (beta * inter + gamma * intra), jnp.ones((), q.dtype)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
