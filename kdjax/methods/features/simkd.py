"""The teacher's last map, so that its classifier can be used again (SimKD, Chen et al., 2203.14001)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.nn.adapters import Bottleneck, forward, norm_without_padding
from kdjax.options import Size, Tap
from kdjax.types import Method

WEIGHT = 1.0  # the authors' scripts, beside 0 on the labels


def simkd(*, factor: Size = 2, student: Tap = 'image/stage3', teacher: Tap = 'image/stage3') -> Method:
  """Distillation to the teacher's last map (arXiv 2203.14001): the mean squared error.

  The larger map is first averaged to the size of the smaller. The student of the paper is the model
  `projected`, which ends in a projector and the teacher's classifier, as it is: its tap 'projected' has the
  teacher's width, its labels get no weight (`task_weight` 0), and what it learns is what it predicts
  with. A tap of another width goes through a projector here, convolutions of 1×1, 3×3 and 1×1 with batch
  norm and ReLU; that is the loss alone, for a student that keeps its own classifier. Mean over the examples
  and all values. Checked against DefangChen/SimKD@2b389c3, models/util.py and helper/loops.py. Deviation:
  the batch norm of this projector leaves padding out.

  Args:
    factor: the hidden layers of this projector have D / factor channels.
    student: its tap, [B, H, W, C].
    teacher: its tap, [B, K, L, D].
  """

  def read(s, t):
    ((a, b),) = taps.stages(s, t, student, teacher, 'simkd')
    a, b = losses.to_one_size(a, b)
    return a, b, Bottleneck(b.shape[-1], max(b.shape[-1] // factor, 1))

  def init(rng, s, t, batch):
    a, b, projector = read(s, t)
    return {} if a.shape == b.shape else projector.init(
      rng, a, norm_without_padding(taps.example_mask(batch, a))
    )['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b, projector = read(s, t)
    a = forward(projector, params, a, norm_without_padding(taps.example_mask(batch, a))) if params else a
    return taps.mean_over_examples(taps.mean_over_axes(jnp.square(a - b)), batch), stats

  return Method(init, loss, relational=lambda params, stats: bool(params))  # batch norm's
