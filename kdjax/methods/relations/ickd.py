"""Channel correlations: match how the channels of a map relate (Liu et al., 2202.03680)."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.nn.conv import Conv
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 2.5  # the authors' CIFAR-100 script, sum over C² divided by C


class Embedding(nn.Module):
  """A 1×1 convolution to the teacher's number of channels, and batch norm."""

  channels: int

  @nn.compact
  def __call__(self, x):
    dtype = x.dtype
    x = Conv(self.channels, (1, 1), use_bias=False, dtype=dtype, name='conv')(x)
    return nn.BatchNorm(False, momentum=0.9, use_fast_variance=False, dtype=dtype, name='bn')(x)


def correlation(x):
  """`[B, H, W, C] -> [B, C, C]`: the channels' Gram matrix, each row of length 1."""
  x = x.reshape(x.shape[0], -1, x.shape[-1])
  return losses.unit(jnp.einsum('bnc,bnd->bcd', x, x, precision='highest'))


def ickd(*, student: Tap = 'image/stage3', teacher: Tap = 'image/stage3') -> Method:
  """Inter-channel correlation, ICKD-C (arXiv 2202.03680).

  Σ (S - T)² / C, S and T the C × C Gram matrices of the channels over all places, each row
  divided by its L2 norm; mean over the examples. The student's map first goes through a learned
  1×1 convolution and batch norm. The paper divides by C² and does not say that rows are
  normalised: both are as in the authors' code.

  Args:
    student: its tap, [B, H, W, C].
    teacher: its tap, [B, K, L, D].
  """

  def read(s, t):
    a, b = taps.pair(s, t, student, teacher, 'ickd', same_shape=False)
    if a.ndim != 4 or b.ndim != 4:
      raise KdjaxError(
        f'ickd cannot pair the student tap {student!r} {list(a.shape)} with the teacher tap '
        f'{teacher!r} {list(b.shape)}: it needs two maps.'
      )
    return a, b

  def init(rng, s, t, batch):
    a, b = read(s, t)
    variables = Embedding(b.shape[-1]).init(rng, a)
    return variables['params'], {k: v for k, v in variables.items() if k != 'params'}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = read(s, t)
    module = Embedding(b.shape[-1])
    a, new_stats = module.apply({'params': params, **stats}, a, mutable=list(stats))
    values = jnp.sum(jnp.square(correlation(a) - correlation(b)), (1, 2)) / b.shape[-1]
    return taps.mean_over_examples(values, batch), dict(new_stats)

  return Method(init, loss, relational=True)
