"""Mimic the mean affinities of several CLIP teachers (MobileCLIP: Vasu et al., 2311.17049)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Taps
from kdjax.types import Method

WEIGHT = 1.0  # MobileCLIP-S on DataCompDR-12M, beside 0 on the task; MobileCLIP-B: 0.75 and 0.25


def mean_affinity(members, mask):
  """The mean of the teachers' affinities, image to text and text to image, `[B, B]` each.

  Args:
    members: (image embeddings `[B, D]`, text embeddings `[B, D]`, log of the scale `[]`) of each.
    mask: `[B]`, 0 for padding.
  """
  each = []
  for image, text, log_scale in members:
    v, w, scale = losses.unit(image), losses.unit(text), jnp.exp(log_scale)
    each.append([jnp.exp(losses.log_affinity(*pair, scale, mask)) for pair in ((v, w), (w, v))])
  return [losses.total(p) / len(each) for p in zip(*each, strict=True)]


def mobileclip(
  *,
  student: Taps = ('image/embed', 'text/embed', 'logit_scale'),
  teacher: Taps | tuple[Taps, ...] = ('image/embed', 'text/embed', 'logit_scale'),
) -> Method:
  """The distillation loss of MobileCLIP's data set reinforcement (arXiv 2311.17049).

  Half of CE(p_T, p_S) from image to text plus that from text to image, mean over the examples; p_T is
  the MEAN over the teachers of softmax(exp(logit_scale) · cosine) over the batch: probabilities are
  averaged, not logits. Deviation, as in the released code: the paper averages KLs, which has the
  same gradient and takes the teachers' entropy off. No T². Padding takes no part; pairs of the same
  `group` do, since the target is the teachers' affinities for them. The paper adds
  the same loss on synthetic captions: give the method a second time, with their taps.

  Args:
    student: its image and text embedding, [B, D] each, and the log of its logit scale, [].
    teacher: the same of the teacher, or a tuple of such tuples, one for each of several, the members of
      an `ensemble`: ('a/image/embed', 'a/text/embed', 'a/logit_scale').
  """
  members = (teacher,) if isinstance(teacher[0], str) else teacher

  def loss(params, stats, s, t, batch, *, step, rng):
    v, w, log_scale = taps.towers(s, student, 'mobileclip', 'student', scalars=1)
    mask = taps.example_mask(batch, v)
    targets = mean_affinity(
      [taps.towers(t, names, 'mobileclip', 'teacher', scalars=1) for names in members], mask
    )
    v, w, scale = losses.unit(v), losses.unit(w), jnp.exp(log_scale)
    rows = [losses.log_affinity(*pair, scale, mask) for pair in ((v, w), (w, v))]
    values = -0.5 * losses.total(jnp.sum(p * log_q, -1) for p, log_q in zip(targets, rows, strict=True))
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
