"""Spatial patterns of the channels, matched by MMD (Huang et al., 1707.01219)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Stages
from kdjax.types import Method

WEIGHT = 50.0  # RepDistiller and mdistiller, summed over the stages

STAGES = ('image/stage1', 'image/stage2', 'image/stage3')


def kernel(x, y):
  """Mean of (x_i · y_j)² over the channels i, j: [B, C, P] and [B, D, P] -> [B]."""
  return taps.mean_over_axes(jnp.einsum('bcp,bdp->bcd', x, y, precision='highest') ** 2)


def nst(*, student: Stages = STAGES, teacher: Stages = STAGES) -> Method:
  """Neuron selectivity transfer (arXiv 1707.01219, section 4), polynomial kernel, d = 2 and c = 0.

  Σ over stages of mean k(t, t) + mean k(s, s) - 2 mean k(s, t), the squared MMD between the
  student's and the teacher's channels, each of L2 norm 1 over the map. The teacher's own term
  counts in the value and has no gradient. A larger map is averaged down to the smaller one first.

  Args:
    student: its taps, maps [B, H, W, C].
    teacher: as many taps, of any widths.
  """

  def channels(x):
    return losses.unit(jnp.moveaxis(x.reshape(x.shape[0], -1, x.shape[-1]), 1, 2))

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = [losses.to_one_size(*pair) for pair in taps.stages(s, t, student, teacher, 'nst')]
    maps = [(channels(a), channels(b)) for a, b in pairs]
    values = losses.total(kernel(b, b) + kernel(a, a) - 2 * kernel(a, b) for a, b in maps)
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
