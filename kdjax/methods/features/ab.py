"""Activation boundaries: which neurons of the teacher are on (Heo et al., 1811.03233)."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn import adapters, losses, taps
from kdjax.options import NonNegative, Stages
from kdjax.types import Method

WEIGHT = 0.003  # RepDistiller: 3/1000 of the sum over all neurons, in the first 30 epochs alone: set `stop`

STAGES = ('image/stage1', 'image/stage2', 'image/stage3')


class Connectors(nn.Module):
  """Brings each student map to the teacher's shape: a convolution and batch norm where they differ."""

  @nn.compact
  def __call__(self, pairs, mask):
    out = []
    for i, (a, b) in enumerate(pairs):
      if a.shape != b.shape:
        a = adapters.MapTo(b.shape[1:], name=f'stage{i}')(a)
        a = adapters.BatchNorm(name=f'stage{i}_bn')(a, mask)
      out.append(a)
    return out


def ab(*, margin: NonNegative = 1.0, student: Stages = STAGES, teacher: Stages = STAGES) -> Method:
  """Activation boundary transfer (arXiv 1811.03233, its alternative loss).

  Σ over stages i of n of 2^(i - n + 1) · Σ over neurons of max(m - s, 0)² where t > 0 and
  max(m + s, 0)² where t <= 0, s the connected student. It is meant for features before their ReLU,
  and for the start of training: give it a stage window. Deviations from the paper, as in
  RepDistiller: the weights of the stages, and no connector where the shapes agree. The connectors'
  batch norm relates the examples of a batch.

  Args:
    margin: m, how far from 0 the student has to be on the teacher's side.
    student: its taps, maps [B, H, W, C] from the bottom up.
    teacher: as many taps, no larger than the student's maps or twice as large.
  """

  def init(rng, s, t, batch):
    pairs = taps.stages(s, t, student, teacher, 'ab')
    return Connectors().init(rng, pairs, taps.example_mask(batch, pairs[0][0])).get('params', {}), {}

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = taps.stages(s, t, student, teacher, 'ab')
    mask = taps.example_mask(batch, pairs[0][0])
    connected = adapters.forward(Connectors(), params, pairs, mask)
    values = jnp.zeros((), mask.dtype)
    for i, (a, (_, b)) in enumerate(zip(connected, pairs, strict=True)):
      short = jnp.maximum(margin + jnp.where(b > 0, -a, a), 0)
      values += 2.0 ** (i - len(pairs) + 1) * losses.flatten(short**2).sum(-1)
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss, relational=lambda params, stats: bool(params))  # the connectors'
