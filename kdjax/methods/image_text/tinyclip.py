"""Mimic the affinities of images and texts by cross-entropy (TinyCLIP: Wu et al., 2309.12314)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Taps
from kdjax.types import Method

WEIGHT = 1.0  # TinyCLIP, in the place of the contrastive loss: the weight of the task is then 0


def tinyclip(
  *,
  student: Taps = ('image/embed', 'text/embed', 'logit_scale'),
  teacher: Taps = ('image/embed', 'text/embed', 'logit_scale'),
) -> Method:
  """Affinity mimicking of TinyCLIP (arXiv 2309.12314).

  Half of CE(p_T, p_S) from image to text plus that from text to image, mean over the examples; p is
  the softmax of exp(logit_scale) · cosine over the batch, each model at its own scale. As in the
  paper the teacher's entropy is not taken off, so the loss is not 0 where the two agree; the
  gradient is that of clip_crd. No T². Padding takes no part; pairs of the same `group` do, since the
  target is the teacher's affinities for them.

  Args:
    student: its image and text embedding, [B, D] each, and the log of its logit scale, [].
    teacher: the same of the teacher; D may differ.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    def both(outputs, names, model):
      v, w, log_scale = taps.towers(outputs, names, 'tinyclip', model, scalars=1)
      v, w, scale = losses.unit(v), losses.unit(w), jnp.exp(log_scale)
      mask = taps.example_mask(batch, v)
      return losses.log_affinity(v, w, scale, mask), losses.log_affinity(w, v, scale, mask)

    pairs = zip(both(t, teacher, 'teacher'), both(s, student, 'student'), strict=True)
    values = 0.5 * losses.total(losses.soft_cross_entropy(log_p, log_q) for log_p, log_q in pairs)
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
