"""A teacher that starts between the student and itself and moves away (TAID, Shing et al., 2501.16937)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Count, Decay, Share, Tap
from kdjax.types import Method

WEIGHT = 1.0
STEPS = 'steps'  # the option that is filled in with the steps of the training
RENAMED = {'start': 'first'}  # an entry of `methods` has a start of its own


def taid(
  *,
  first: Share = 0.4,
  last: Share = 1.0,
  rate: Share = 5e-4,
  momentum: Decay = 0.99,
  steps: Count = 1000,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Temporally adaptive interpolated distillation (arXiv 2501.16937, equations 3 to 7 and algorithm 1).

  KL(softmax((1 - t) · sg(student) + t · teacher) || softmax(student)), mean over the examples. t starts at
  `first` and never falls below the line to `last`; above it, it grows by rate · σ(m) · (1 - t) a step; m
  is a moving average of by how much of itself the loss fell. Checked against SakanaAI/TAID@a062892,
  src/distil_losses/taid.py. Deviations: the change is that of the KL, as the paper has it, where the code
  takes the cross-entropy; and it is at least -1, so that a loss near 0 does not stop t for good.

  Args:
    first: t of the first step.
    last: t of the last.
    rate: α, the largest step of t.
    momentum: β, of the moving average.
    steps: of the training, which a recipe fills in.
    student: its tap, [..., C].
    teacher: its tap, of the same shape.
  """

  def init(rng, s, t, batch):
    return {}, {'t': jnp.float32(first), **dict.fromkeys(('loss', 'momentum', 'seen'), jnp.float32(0))}

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'taid')
    line = first + (last - first) * (step - 1) / steps  # of the step before, as in the code
    grown = stats['t'] + rate * jax.nn.sigmoid(stats['momentum']) * (1 - stats['t'])
    now = jnp.where(stats['seen'] >= 2, jnp.minimum(jnp.maximum(line, grown), last), stats['t'])
    fixed = jax.lax.stop_gradient(q)
    out = losses.ruled_out(p) | (losses.ruled_out(fixed) & (now < 1))
    between = jnp.where(out, -jnp.inf, (1 - now) * losses.zero_masked(fixed) + now * losses.zero_masked(p))
    values = taps.mean_over_axes(losses.kl(between, q))
    total, count = taps.mean_over_examples(values, batch)
    mean = jax.lax.stop_gradient(total / jnp.maximum(count, 1)).astype(jnp.float32)
    change = jnp.maximum((stats['loss'] - mean) / (stats['loss'] + 1e-15), -1)
    averaged = jnp.where(
      stats['seen'] >= 1, momentum * stats['momentum'] + (1 - momentum) * change, stats['momentum']
    )
    new = {'t': now, 'loss': mean, 'momentum': averaged, 'seen': jnp.minimum(stats['seen'] + 1, 2)}
    new = jax.tree.map(lambda a, b: jnp.where(count > 0, a, b).astype(jnp.float32), new, dict(stats))
    return (total, count), new

  return Method(init, loss)
