"""Mutual information: a learned Gaussian predicts the teacher's map (Ahn et al., 1904.05835)."""

import math

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn import adapters, losses, taps
from kdjax.options import Eps, Positive, Stages
from kdjax.types import Method

WEIGHT = 1.0  # RepDistiller, mdistiller and Knowledge-Distillation-Zoo, summed over the stages

STAGES = ('image/stage1', 'image/stage2', 'image/stage3')


class Gaussians(nn.Module):
  """(mean [B, H, W, C], variance [C], teacher's map) of each pair of maps, at the smaller size."""

  variance: float
  eps: float

  @nn.compact
  def __call__(self, pairs):
    out = []
    start = nn.initializers.constant(math.log(math.expm1(self.variance - self.eps)))
    for i, pair in enumerate(pairs):
      x, b = losses.to_one_size(*pair)
      width = b.shape[-1]
      for j in range(3):
        x = nn.relu(x) if j else x
        x = nn.Dense(width, use_bias=False, dtype=x.dtype, name=f'stage{i}_conv{j}')(x)
      raw = self.param(f'stage{i}_log_scale', start, (width,)).astype(x.dtype)
      out.append((x, nn.softplus(raw) + self.eps, b))
    return out


def vid(
  *, variance: Positive = 5.0, eps: Eps = 1e-5, student: Stages = STAGES, teacher: Stages = STAGES
) -> Method:
  """Variational information distillation (arXiv 1904.05835, section 2).

  Σ over stages of mean ½ ((μ(f_S) - f_T)² / σ² + log σ²): the negative log-likelihood of the
  teacher's map up to a constant, so it may be negative and is not 0 where the two agree. μ is
  three 1×1 convolutions without bias and ReLU between, σ² = softplus(learned) + eps a channel.
  Deviations from the paper: no batch norm in μ and hidden layers of the teacher's width, as in
  RepDistiller; a larger map is averaged down to the smaller one. The variances are learned, as the
  paper and RepDistiller have it; in mdistiller they stay as they start.

  Args:
    variance: σ² at the start, above `eps`.
    eps: the least σ².
    student: its taps, maps [B, H, W, C].
    teacher: as many taps, of any widths.
  """
  gaussians = Gaussians(variance, eps)

  def init(rng, s, t, batch):
    return gaussians.init(rng, taps.stages(s, t, student, teacher, 'vid'))['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = taps.stages(s, t, student, teacher, 'vid')
    values = losses.total(
      taps.mean_over_axes(0.5 * ((mean - b) ** 2 / var + jnp.log(var)))
      for mean, var, b in adapters.forward(gaussians, params, pairs)
    )
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
