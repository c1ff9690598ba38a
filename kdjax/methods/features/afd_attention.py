"""Attentive features: channels of the teacher, weighted by learned attention (Wang et al., ICLR 2020)."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn import adapters, losses, taps
from kdjax.options import SomeShare, Stages
from kdjax.types import Method

WEIGHT = 500.0  # Knowledge-Distillation-Zoo, on the last stage


class Attention(nn.Module):
  """Squeeze and excite: the weights [B, C], of sum 1, of the channels of a teacher's map."""

  share: float

  @nn.compact
  def __call__(self, b):
    x, width = b.mean((1, 2)), b.shape[-1]
    x = nn.relu(nn.Dense(max(int(width * self.share), 1), dtype=x.dtype, name='squeeze')(x))
    # The softmax of log sigmoids is the sigmoids over their sum, with no 0/0.
    return nn.softmax(nn.log_sigmoid(nn.Dense(width, dtype=x.dtype, name='excite')(x)))


class Attentions(nn.Module):
  """(aligned student's map, teacher's map, weights of its channels) of each pair."""

  share: float

  @nn.compact
  def __call__(self, pairs):
    pairs = adapters.Align(name='align')(pairs)
    return [(a, b, Attention(self.share, name=f'attention{i}')(b)) for i, (a, b) in enumerate(pairs)]


def afd_attention(
  *, share: SomeShare = 1.0, student: Stages = 'image/stage3', teacher: Stages = 'image/stage3'
) -> Method:
  """Attentive feature distillation (Wang et al., openreview ryxyCeHtPB, ICLR 2020).

  Σ_c ρ_c · mean over HW of (n(f_S)_c - n(f_T)_c)², n(f) = f / (||f|| + 1e-6) over each channel's
  map, ρ learned from the teacher's means of the channels. Deviations from the paper, as in
  Knowledge-Distillation-Zoo: ρ comes from a squeeze-and-excite block, since the paper's attention is
  unstable; the paper's feature selection is left out. Where the widths differ a learned 1×1
  convolution maps the student; a larger map is averaged down to the smaller one.

  Args:
    share: the width between the block's two layers, as a share of the channels.
    student: its tap or taps, maps [B, H, W, C].
    teacher: as many taps.
  """
  attentions = Attentions(share)

  def read(s, t):
    return [losses.to_one_size(*pair) for pair in taps.stages(s, t, student, teacher, 'afd_attention')]

  def channels(x):
    x = jnp.moveaxis(x.reshape(len(x), -1, x.shape[-1]), 1, 2)
    return x / (losses.norm(x)[..., None] + 1e-6)

  def init(rng, s, t, batch):
    return attentions.init(rng, read(s, t))['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    values = losses.total(
      jnp.sum(rho * jnp.mean((channels(a) - channels(b)) ** 2, -1), -1)
      for a, b, rho in adapters.forward(attentions, params, read(s, t))
    )
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
