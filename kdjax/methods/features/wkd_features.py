"""The Wasserstein distance between Gaussians of features (WKD-F, Lv et al., 2412.08139)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.nn.adapters import Align, forward
from kdjax.options import Eps, NonNegative, Stages
from kdjax.types import Method

WEIGHT = 0.02  # beside 1 on the labels; the right one depends on the size of the teacher's feature


def wkd_features(
  *,
  mean: NonNegative = 2.0,
  eps: Eps = 1e-5,
  student: Stages = 'image/stage3',
  teacher: Stages = 'image/stage3',
) -> Method:
  """Wasserstein distillation of features (WKD-F, arXiv 2412.08139, section 3.2).

  The positions of a map, or the tokens of a sequence, are taken for draws of a Gaussian with a diagonal
  covariance. `mean` · |μ_s - μ_t|² + |σ_s - σ_t|², summed over the channels and the pairs, mean over the
  examples: `mean` = 1 is the square of the 2-Wasserstein distance. A linear layer brings the student to the
  teacher's channels; it is always there and discarded. σ is √(variance + ε), the variance over the positions
  less one. Checked against JiamingLv/WKD, mdistiller/distillers/WKD.py, with one cell. Deviation: the
  layer has neither batch norm nor ReLU. Tokens that are padding count as positions.

  Args:
    mean: the factor of the means.
    eps: ε.
    student: its taps, [B, ..., D], of two positions and more.
    teacher: as many, of other or equal shapes.
  """
  align = Align(always=True)

  def pairs(s, t):
    return taps.stages(s, t, student, teacher, 'wkd_features', rank=None, differ=(1, 2, -1))

  def init(rng, s, t, batch):
    return align.init(rng, pairs(s, t))['params'], {}

  def moments(x):
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    centre = x.mean(1)
    top = losses.largest(x - centre[:, None], (1,))  # squares stay in range
    scaled = (x - centre[:, None]) / top
    variance = jnp.sum(scaled**2, 1) / max(x.shape[1] - 1, 1)
    return centre, top[:, 0] * jnp.sqrt(variance + eps / top[:, 0] ** 2)

  def loss(params, stats, s, t, batch, *, step, rng):
    values = []
    for a, b in forward(align, params, pairs(s, t)):
      (centre, deviation), (target, spread) = moments(a), moments(b)
      values.append(mean * jnp.sum((centre - target) ** 2, -1) + jnp.sum((deviation - spread) ** 2, -1))
    return taps.mean_over_examples(losses.total(values), batch), stats

  return Method(init, loss)
