"""Pearson correlation of each channel with the teacher's over the batch (Cao et al., 2207.02039)."""

import jax.numpy as jnp

from kdjax.nn import adapters, losses, taps
from kdjax.options import Stages
from kdjax.types import Method

WEIGHT = 10.0  # mmrazor on each level of a RetinaNet

STAGES = ('image/stage1', 'image/stage2', 'image/stage3')


def pkd_pearson(*, student: Stages = STAGES, teacher: Stages = STAGES) -> Method:
  """Distillation by the Pearson correlation coefficient, PKD (arXiv 2207.02039, section 3).

  Σ over stages of the mean over channels of ½ ||z_S - z_T||² = 1 - ρ, z a channel over all
  positions of all examples, centred and of L2 norm 1; a constant channel is 0. It counts once a
  batch, and padding takes no part in it. Deviations from mmrazor: its deviation divides by one less
  than the number of positions, and it resizes bilinearly where this averages the larger map
  down. Where the widths differ, which the paper leaves out, a learned 1×1 convolution maps the student.

  Args:
    student: its taps, maps [B, H, W, C].
    teacher: as many taps.
  """

  def read(s, t):
    return [losses.to_one_size(*pair) for pair in taps.stages(s, t, student, teacher, 'pkd_pearson')]

  def channels(x, mask):
    m = mask[:, None, None, None]
    n = jnp.maximum(mask.sum(), 1) * x.shape[1] * x.shape[2]
    centred = (x - jnp.sum(x * m, (0, 1, 2)) / n) * m
    return losses.unit(centred.reshape(-1, x.shape[-1]).T)

  def init(rng, s, t, batch):
    return adapters.Align().init(rng, read(s, t)).get('params', {}), {}

  def loss(params, stats, s, t, batch, *, step, rng):
    total = 0
    for a, b in adapters.forward(adapters.Align(), params, read(s, t)):
      mask = taps.example_mask(batch, a)
      total += 0.5 * jnp.mean(jnp.sum((channels(a, mask) - channels(b, mask)) ** 2, -1))
    return (total, jnp.ones_like(total)), stats

  return Method(init, loss, relational=True)
