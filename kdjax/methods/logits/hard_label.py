"""The teacher's decision as the label: cross-entropy to its arg max (Touvron et al., 2012.12877)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Rate, Tap
from kdjax.types import Method

WEIGHT = 1.0  # big_vision, its only loss; DeiT has 0.5, beside 0.5 on the labels


def hard_label(*, label_smoothing: Rate = 0.0, student: Tap = 'logits', teacher: Tap = 'logits') -> Method:
  """Hard-label distillation (arXiv 2012.12877, equation 3).

  KL(h || softmax(student)), h the one-hot vector of the teacher's arg max, smoothed; mean over
  the examples. It is the cross-entropy less the constant entropy of h, as in big_vision.

  Args:
    label_smoothing: the share of h that is spread over the other classes.
    student: its tap, [..., C], any axes between the batch and the classes.
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'hard_label')
    h = jax.nn.one_hot(jnp.argmax(p, -1), p.shape[-1], dtype=q.dtype)
    others = jnp.where(losses.ruled_out(p), 0, 1 - h)  # a class without a chance gets no share
    h = (1 - label_smoothing) * h + label_smoothing / jnp.maximum(others.sum(-1, keepdims=True), 1) * others
    values = losses.expected(h, jnp.log(h) - jax.nn.log_softmax(q))
    return taps.mean_over_examples(taps.mean_over_axes(values), batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
