"""Correlation of learned embeddings: match a kernel of the examples (CCKD as in torchdistill)."""

import math
from typing import Annotated, Literal

import jax.numpy as jnp
from annotated_types import Interval

from kdjax.errors import unknown
from kdjax.nn import losses, taps
from kdjax.nn.adapters import TwoEmbeddings, forward
from kdjax.options import Order, Size, Tap
from kdjax.types import Method

WEIGHT = 0.003  # torchdistill, the norm divided by B², beside KD at T = 1

KERNELS = ('gaussian', 'bilinear')


def cckd(
  *,
  kernel: Literal['gaussian', 'bilinear'] = 'gaussian',
  gamma: Annotated[float, Interval(gt=0, le=10)] = 0.4,
  order: Order = 2,
  dim: Size = 128,
  student: Tap = 'embed',
  teacher: Tap = 'embed',
) -> Method:
  """Correlation congruence (arXiv 1904.01802) as torchdistill has it.

  |K_S - K_T| / B², K = exp(-2γ) · Σ_p (2γ)^p / p! · (e_i·e_j)^p of the linear embeddings e of the
  two taps, both learned. Deviations from the paper, all torchdistill's: the norm is not squared,
  and the embeddings are not of length 1, so that the kernel is a polynomial and no Gaussian;
  `cc_taylor` is without them. It counts once a batch, and padding takes no part in it.

  Args:
    kernel: 'gaussian', the series above, or 'bilinear', e_i·e_j.
    gamma: γ of the gaussian kernel.
    order: the last power of its series.
    dim: the width of the embeddings.
    student: its tap, flattened to [B, D].
    teacher: its tap, flattened to [B, E].
  """
  if kernel not in KERNELS:
    raise unknown('kernel of cckd', kernel, KERNELS)

  def correlation(e):
    k = jnp.matmul(e, e.T, precision='highest')
    if kernel == 'bilinear':
      return k
    series = losses.total((2 * gamma) ** p / math.factorial(p) * k**p for p in range(order + 1))
    return math.exp(-2 * gamma) * series

  def read(s, t):
    return taps.pair(s, t, student, teacher, 'cckd', same_shape=False)

  def init(rng, s, t, batch):
    return TwoEmbeddings(dim).init(rng, *read(s, t))['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = forward(TwoEmbeddings(dim), params, *read(s, t))
    m = taps.example_mask(batch, a)
    difference = losses.gap(correlation(a), correlation(b)) * m[:, None] * m[None]
    total = losses.norm(difference, None) / jnp.maximum(m.sum(), 1) ** 2
    return (total, jnp.ones_like(total)), stats

  return Method(init, loss, relational=True)
