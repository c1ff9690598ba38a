"""Patient distillation: the first token's direction, layer by layer (Sun et al., 1908.09355)."""

import jax.numpy as jnp

from kdjax.nn import adapters, losses, taps
from kdjax.options import Stages
from kdjax.types import Method

WEIGHT = 1.0  # TextBrewer; the paper searches 10, 100, 500 and 1000

LAYERS = ('text/block1', 'text/block2')


def pkd_bert(*, student: Stages = LAYERS, teacher: Stages = LAYERS) -> Method:
  """Patient knowledge distillation of BERT (arXiv 1908.09355, its loss L_PT).

  Σ over layers of ||h_S / ||h_S|| - h_T / ||h_T|| ||², h the state of the first position, mean over
  the examples. Where the widths differ, which the paper leaves out, a learned linear layer maps
  the student's state.

  Args:
    student: its taps, [B, L, D], or [B, D] taken whole.
    teacher: as many taps: PKD-Skip takes every second one.
  """

  def read(s, t):
    pairs = taps.stages(s, t, student, teacher, 'pkd_bert', rank=None, differ=(1, -1))
    return [tuple(x[:, 0] if x.ndim > 2 else x for x in pair) for pair in pairs]

  def init(rng, s, t, batch):
    return adapters.Align().init(rng, read(s, t)).get('params', {}), {}

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = adapters.forward(adapters.Align(), params, read(s, t))
    values = losses.total(jnp.sum((losses.unit(a) - losses.unit(b)) ** 2, -1) for a, b in pairs)
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
