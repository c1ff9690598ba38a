"""Self-distillation with no labels: from a centred, sharpened moving average (DINO, Caron, 2104.14294)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Decay, NoOrSize, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the paper, with no labels at all


def scores(x, kernel):
  """Cosines of `[..., D]` with the prototypes in the columns of `[D, K]`: `[..., K]`."""
  prototypes = losses.unit(kernel.astype(x.dtype).T)
  return jnp.einsum('...d,kd->...k', losses.unit(x), prototypes, precision='highest')


def dino(
  *,
  student_temperature: Temperature = 0.1,
  teacher_temperature: Temperature = 0.04,
  center: Decay = 0.9,
  prototypes: NoOrSize = 0,
  momentum: Decay = 0.996,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """The loss of DINO (arXiv 2104.14294) on one view.

  -Σ softmax((teacher - c) / T_t) · log softmax(student / T_s), mean over the examples. The centre c
  starts at 0 and moves, after each batch, to `center` · c + (1 - `center`) · the mean of the teacher's
  scores over the batch, padding left out. The teacher is to be an average of the student's weights over
  its steps. No factor T², as in the paper; the temperatures are meant for scores from -1 to 1, such as
  prototypes give.

  Deviations: no multi-crop: one pair of taps, which two different views may give ('view1/embed' and
  'view2/embed'), one entry a pair. T_t stays, where the paper may warm it up to 0.07. Of the paper's
  head the last layer is there, with columns of length 1, and not the layers before it.

  Args:
    student_temperature: T_s, above 0.
    teacher_temperature: T_t, above 0, below T_s.
    center: the momentum of the centre.
    prototypes: K of a learned last layer on both taps at length 1; 65,536 in the paper, 0 for none.
    momentum: of the average of that layer which the teacher has; constant, where the paper's grows to 1.
    student: its tap, [..., K], or with prototypes any [..., D].
    teacher: its tap, of the same shape.
  """

  def init(rng, s, t, batch):
    q, _ = taps.pair(s, t, student, teacher, 'dino')
    stats = {'center': jnp.zeros(prototypes or q.shape[-1], q.dtype)}
    if not prototypes:
      return {}, stats
    kernel = jax.nn.initializers.normal()(rng, (q.shape[-1], prototypes), q.dtype)
    return {'kernel': kernel}, stats | {'kernel': kernel}

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'dino')
    new = {}
    if prototypes:
      q, p = scores(q, params['kernel']), scores(p, stats['kernel'])
      kernel = jax.lax.stop_gradient(params['kernel'])
      new['kernel'] = momentum * stats['kernel'] + (1 - momentum) * kernel
    c = stats['center']
    values = losses.soft_cross_entropy((p - c) / teacher_temperature, q / student_temperature)
    each = losses.zero_masked(p).reshape(len(p), -1, p.shape[-1]).mean(1)
    mask = taps.example_mask(batch, each)
    mean = jnp.sum(jnp.where(mask[:, None] > 0, each, 0), 0) / jnp.maximum(mask.sum(), 1)
    moved = center * c + (1 - center) * mean.astype(c.dtype)
    new['center'] = jnp.where(mask.sum() > 0, moved, c)
    return taps.mean_over_examples(taps.mean_over_axes(values), batch), new

  return Method(init, loss)
