"""Features through an orthogonal projection, against normalised ones (VkD, Miles et al., 2403.06213)."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.nn.adapters import forward
from kdjax.options import Eps, Tap
from kdjax.types import Method

WEIGHT = 1.0  # the authors' script, mean over the values, beside 1 on the labels and 1 on `kd` at T = 1


class Orthogonal(nn.Module):
  """`[B, D] -> [B, width]` by a matrix with orthonormal rows, or columns where it makes D smaller.

  The matrix is the corner of a rotation (1 - S)⁻¹ (1 + S), S a learned skew-symmetric matrix (Cayley).
  """

  width: int

  @nn.compact
  def __call__(self, x):
    n = max(x.shape[-1], self.width)
    free = self.param('free', nn.initializers.normal(n**-0.5), (n, n)).astype(x.dtype)
    skew, one = free - free.T, jnp.eye(n, dtype=x.dtype)
    rotation = jnp.linalg.solve(one - skew, one + skew)
    return jnp.matmul(x, rotation[: x.shape[-1], : self.width], precision='highest')


def vkd(*, eps: Eps = 1e-5, student: Tap = 'embed', teacher: Tap = 'embed') -> Method:
  """Distillation of features by an orthogonal projection (arXiv 2403.06213).

  The mean of Huber's loss over the values of P z_S - N(z_T): P is learned and keeps the angles and lengths of
  the student's features, so that it can learn nothing in their place; N gives each of the teacher's features
  mean 0 and deviation 1 over its values. Mean over the examples. Checked against roymiles/VkD@0c9cc5e,
  engine.py and train.py. Deviations: P is a Cayley transform, where the code has torch's
  `parametrizations.orthogonal`; N is the code's for classification, and other tasks' are not offered.

  Args:
    eps: what is added to the teacher's variance.
    student: its tap, [B, ..., D], averaged to [B, D].
    teacher: its tap, [B, ..., E].
  """

  def read(s, t):
    pair = taps.pair(s, t, student, teacher, 'vkd', same_shape=False)
    return [x.reshape(x.shape[0], -1, x.shape[-1]).mean(1) for x in pair]

  def normalised(x):
    x -= x.mean(-1, keepdims=True)
    scale = losses.largest(x, -1)  # the squares of large values would overflow
    x = x / scale
    return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + eps / scale / scale)

  def init(rng, s, t, batch):
    a, b = read(s, t)
    return Orthogonal(b.shape[-1]).init(rng, a)['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = read(s, t)
    difference = forward(Orthogonal(b.shape[-1]), params, a) - normalised(b)
    return taps.mean_over_examples(losses.smooth_l1(difference).mean(-1), batch), stats

  return Method(init, loss)
