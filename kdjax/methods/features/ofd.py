"""Overhaul: match the teacher's features above a margin, by a partial L2 (Heo et al., 1904.01866)."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, ndtr

from kdjax.errors import KdjaxError
from kdjax.nn import adapters, losses, taps
from kdjax.options import Number, Stages, Tap
from kdjax.types import Method

WEIGHT = 0.001  # mdistiller on CIFAR-100 (1e-4 on ImageNet), the sum over all neurons

STAGES = ('image/stage1', 'image/stage2', 'image/stage3')


class Connectors(nn.Module):
  """A 1×1 convolution and batch norm from each student map to the teacher's width."""

  @nn.compact
  def __call__(self, pairs, mask):
    out = []
    for i, (a, b) in enumerate(pairs):
      a = nn.Dense(b.shape[-1], use_bias=False, dtype=a.dtype, name=f'stage{i}')(a)
      out.append(adapters.BatchNorm(name=f'stage{i}_bn')(a, mask))
    return out


def bn_margin(scale, bias):
  """E[x | x < 0] of N(bias, scale²), what a batch norm of that scale and bias puts out: [C] -> [C].

  -3 |scale| where x < 0 has a probability of 0.001 or less.
  """
  s = jnp.maximum(jnp.abs(scale), jnp.finfo(scale.dtype).tiny ** 0.25)
  z = bias / s
  expected = bias - s * jnp.exp(-z * z / 2 - log_ndtr(-z)) / math.sqrt(2 * math.pi)
  return jnp.where(ndtr(-z) > 0.001, expected, -3 * s)


def batch_margin(b, mask):
  """The mean of the negative values of each channel of `b` [B, H, W, C]: [C]; 0 without any."""
  negative = (b < 0) * mask[:, None, None, None]
  return jnp.sum(b * negative, (0, 1, 2)) / jnp.maximum(jnp.sum(negative, (0, 1, 2)), 1)


def partial_l2(a, b, margin):
  """Σ over neurons of (s - max(t, m))², but 0 where s <= max(t, m) <= 0: [B, H, W, C] -> [B]."""
  target = jnp.maximum(b, margin)
  return losses.flatten(jnp.where((a > target) | (target > 0), (a - target) ** 2, 0)).sum(-1)


def ofd(
  *, margins: tuple[Tap | tuple[Number, ...], ...] = (), student: Stages = STAGES, teacher: Stages = STAGES
) -> Method:
  """The overhaul of feature distillation (arXiv 1904.01866, section 3).

  Σ over stages i of n of 2^(i + 1 - n) · Σ over neurons of the partial L2 distance between the
  connected student and max(t, m), which is 0 where both are below 0. It is meant for
  features before their ReLU. The teacher's map is averaged to the student's size. The connectors'
  batch norm relates the examples of a batch. Deviation from mdistiller, whose teacher runs its
  batch norm in training mode: this teacher is in evaluation mode.

  Args:
    margins: m of each stage, [C] numbers as `bn_margin` makes them from the teacher's last batch
      norm, or the name of a teacher tap [C] or [B, C]; by default the mean of the channel's negative
      values in the batch, as in Knowledge-Distillation-Zoo.
    student: its taps, maps [B, H, W, C] from the bottom up.
    teacher: as many taps, of any widths.
  """

  def read(s, t, batch):
    pairs = taps.stages(s, t, student, teacher, 'ofd')
    if margins and len(margins) != len(pairs):
      raise KdjaxError(f'ofd has {len(margins)} margins for {len(pairs)} stages: give one each, or none.')
    pairs = [(a, losses.average_to(b, a.shape[1:3])) for a, b in pairs]
    return pairs, taps.example_mask(batch, pairs[0][0])

  def margin(i, t, b, mask):
    if not margins:
      return batch_margin(b, mask)
    value = margins[i]
    value = taps.tap(t, value, 'ofd', 'teacher') if isinstance(value, str) else jnp.asarray(value, b.dtype)
    if value.shape[-1:] != b.shape[-1:]:
      raise KdjaxError(
        f'ofd cannot use a margin {list(value.shape)} for a map {list(b.shape)} of the teacher.'
      )
    return value.reshape(-1, 1, 1, b.shape[-1])

  def init(rng, s, t, batch):
    return Connectors().init(rng, *read(s, t, batch))['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs, mask = read(s, t, batch)
    connected = adapters.forward(Connectors(), params, pairs, mask)
    values = jnp.zeros((), mask.dtype)
    for i, (a, (_, b)) in enumerate(zip(connected, pairs, strict=True)):
      values += 2.0 ** (i + 1 - len(pairs)) * partial_l2(a, b, margin(i, t, b, mask))
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss, relational=True)
