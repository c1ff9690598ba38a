"""Wasserstein distance of Gaussians: the moments of each channel of a map (WKD, Lv et al., 2412.08139)."""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval

from kdjax.nn import losses, taps
from kdjax.nn.adapters import BatchNorm, forward
from kdjax.options import Eps, NonNegative, Tap
from kdjax.types import Method

WEIGHT = 0.02  # the ImageNet script of the copy below, sum over the channels, beside 1 on the labels
Grid = Annotated[int, Interval(ge=1, le=64)]


class Projector(nn.Module):
  """A 1×1 convolution, batch norm and ReLU."""

  width: int

  @nn.compact
  def __call__(self, x, mask):
    x = nn.Dense(self.width, dtype=x.dtype, name='conv')(x)
    return nn.relu(BatchNorm(name='bn')(x, mask))


def positions(n: int, cells: int) -> np.ndarray:
  """How many of n positions are in each cell of `losses.average_to`."""
  i = np.arange(cells)
  return -(-(i + 1) * n // cells) - i * n // cells


def moments(x, grid: int, eps: float):
  """The mean and the standard deviation of each channel within each cell: `[B, grid, grid, C]` twice."""
  height, width = x.shape[1:3]
  n = np.outer(positions(height, grid), positions(width, grid))[..., None]
  middle = x.mean((1, 2), keepdims=True)
  mean = losses.average_to(x - middle, (grid, grid))
  square = losses.average_to(jnp.square(x - middle), (grid, grid))
  variance = jnp.maximum(square - jnp.square(mean), 0) * jnp.asarray(n / np.maximum(n - 1, 1), x.dtype)
  return mean + middle, jnp.sqrt(variance + eps)


def wkd_features(
  *,
  mean: NonNegative = 2.0,
  grid: Grid = 1,
  eps: Eps = 1e-5,
  student: Tap = 'image/stage3',
  teacher: Tap = 'image/stage3',
) -> Method:
  """Wasserstein distillation of features, WKD-F (arXiv 2412.08139).

  A map is a Gaussian over its positions, of independent channels: mean · |μ_S - μ_T|² + |σ_S - σ_T|², sums
  over the channels, averaged over the cells of a grid and over the examples. σ is the square root of the
  variance, which is divided by one less than the positions, plus `eps`. The student's map first goes through
  a learned 1×1 convolution with batch norm and ReLU; the two maps may differ in size. Checked against a copy
  of JiamingLv/WKD, hainn2803/WKD@635a710, mdistiller/distillers/WKD.py, where `mean` is 4 for CIFAR-100 and 2
  for ImageNet. Deviations: where a cell has a single position its variance is 0, and not undefined; padding
  takes no part in the batch norm; the weight does not decay at the end of the training.

  Args:
    mean: the factor of the means beside 1 of the deviations.
    grid: cells along either side of a map, with a Gaussian each; 1 for the whole.
    eps: what is added to a variance.
    student: its tap, [B, H, W, C].
    teacher: its tap, [B, K, L, D].
  """

  def read(s, t):
    ((a, b),) = taps.stages(s, t, student, teacher, 'wkd_features')
    return a, b

  def init(rng, s, t, batch):
    a, b = read(s, t)
    return Projector(b.shape[-1]).init(rng, a, taps.example_mask(batch, a))['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = read(s, t)
    a = forward(Projector(b.shape[-1]), params, a, taps.example_mask(batch, a))
    of_a, of_b = moments(a, grid, eps), moments(b, grid, eps)
    means, deviations = (jnp.sum(jnp.square(x - y), -1) for x, y in zip(of_a, of_b, strict=True))
    values = taps.mean_over_axes(mean * means + deviations)
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss, relational=True)
