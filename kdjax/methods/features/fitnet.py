"""Hints: match a hidden feature through a learned regressor (Romero et al., 1412.6550)."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import taps
from kdjax.nn.conv import Conv
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 100.0  # RepDistiller and mdistiller, mean over all elements


class Regressor(nn.Module):
  """Maps the student's feature to the shape of the teacher's.

  `[B, D]` and `[B, L, D]` go through a linear layer. Maps `[B, H, W, C]` go through one
  convolution: 3×3 with stride 2 where the student's map is twice as high, a transposed 4×4 with
  stride 2 where it is half as high, and else one with no padding whose kernel takes off the
  difference; with `norm`, batch norm and ReLU follow.
  """

  shape: tuple[int, ...]  # of the teacher's feature, without the batch
  norm: bool

  @nn.compact
  def __call__(self, x, train: bool = True):
    width, dtype = self.shape[-1], x.dtype
    if len(self.shape) < 3:
      x = nn.Dense(width, dtype=dtype, name='linear')(x)
    else:
      h, w = x.shape[1:3]
      th, tw = self.shape[:2]
      if (h, w) == (2 * th, 2 * tw):
        x = Conv(width, (3, 3), 2, ((1, 1), (1, 1)), dtype=dtype, name='conv')(x)
      elif (2 * h, 2 * w) == (th, tw):
        pad = ((2, 2), (2, 2))  # with a 4×4 kernel and stride 2: exactly twice as large
        x = nn.ConvTranspose(width, (4, 4), (2, 2), pad, dtype=dtype, name='conv')(x)
      elif h >= th and w >= tw:
        x = Conv(width, (1 + h - th, 1 + w - tw), 1, 'VALID', dtype=dtype, name='conv')(x)
      else:
        raise KdjaxError(
          f'fitnet cannot map a student feature of {h}×{w} to a teacher feature of {th}×{tw}: '
          'choose taps where the student is larger, equal or exactly half as large.'
        )
    if self.norm:
      x = nn.BatchNorm(not train, momentum=0.9, use_fast_variance=False, dtype=dtype, name='bn')(x)
      x = nn.relu(x)
    return x


def fitnet(
  *, norm: bool | None = None, student: Tap = 'image/stage2', teacher: Tap = 'image/stage2'
) -> Method:
  """FitNets' hint loss (arXiv 1412.6550, equation 3): the mean squared error to the teacher.

  Deviation from the paper, as in RepDistiller and mdistiller: the regressor is trained together
  with the student, in one stage; on maps it ends in batch norm and ReLU. `norm=False` is the
  plain regressor of the paper; give it a stage window to get the paper's two stages.

  Args:
    norm: whether batch norm, which relates the examples of a batch, and ReLU end the regressor; by
      default on maps only.
    student: its tap, [B, D], [B, L, D] or [B, H, W, C].
    teacher: its tap, with the same number of axes.
  """

  def regressor(s, t):
    a, b = taps.pair(s, t, student, teacher, 'fitnet', same_shape=False)
    if a.ndim != b.ndim or (a.ndim == 3 and a.shape[1] != b.shape[1]):
      raise KdjaxError(
        f'fitnet cannot pair the student tap {student!r} {list(a.shape)} with the teacher tap '
        f'{teacher!r} {list(b.shape)}: it needs two vectors, two sequences of one length or two maps.'
      )
    use_norm = b.ndim == 4 if norm is None else norm
    return Regressor(b.shape[1:], use_norm), a, b

  def init(rng, s, t, batch):
    module, a, _ = regressor(s, t)
    variables = module.init(rng, a)
    return variables['params'], {k: v for k, v in variables.items() if k != 'params'}

  def loss(params, stats, s, t, batch, *, step, rng):
    module, a, b = regressor(s, t)
    hint, new_stats = module.apply({'params': params, **stats}, a, mutable=list(stats))
    values = taps.mean_over_axes(jnp.square(hint - b))
    return taps.mean_over_examples(values, batch), dict(new_stats)

  return Method(init, loss, relational=lambda params, stats: bool(stats))  # batch norm's
