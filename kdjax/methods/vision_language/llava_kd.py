"""Words, the places of the image, and how those relate, of a vision-language model (LLaVA-KD, 2410.16236)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Tap
from kdjax.types import Method

WEIGHT = 1.0  # the authors' code, every term, beside 1 on the labels


def llava_kd(
  *,
  visual: NonNegative = 1.0,
  relation: NonNegative = 1.0,
  mask: str | None = 'text/mask',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
  student_image: Tap = 'image_logits',
  teacher_image: Tap = 'image_logits',
) -> Method:
  """Multimodal and relation distillation of LLaVA-KD (arXiv 2410.16236, section 3.2).

  KL(p || q) of the next token, mean over an example's tokens that count, plus `visual` · the same of the
  scores at the places of the image, mean over the places, plus `relation` · (1 - the cosine of the two
  matrices Y·Yᵀ [P, P], flattened), Y those scores [P, V]; mean over the examples. A token of the vocabulary
  that either model rules out takes no part in a KL, and counts as a score of 0 in the matrices.

  Checked against the training code that Jingchensun/llava-kd@21d46ec has in
  llavakd/train/tinyllava_distill_trainer.py; the authors' own repository, Fantasyele/LLaVA-KD, was stored
  without one. Deviations: tokens and matrices are averaged an example at a time, where the code takes all of
  a batch at once, which is the same for its batches of one image a device.

  Args:
    visual: the factor of the KL at the image's places.
    relation: the factor of the distance of the relations.
    mask: the batch key of the positions of the text that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its scores of words, [B, L, V].
    teacher: its tap, of the same shape.
    student_image: its scores at the image's places, [B, P, V], such as `image_logits` of the models
      `vision_language` and `captioner` (with join 'prefix').
    teacher_image: its tap, of the same shape.
  """

  def divergence(a, b):
    log_q, log_p, allowed = losses.log_distributions(a, b)
    return losses.divergence(log_p, log_q, allowed)

  def relations(y):
    y = losses.scaled(losses.zero_masked(y), (1, 2))
    return losses.unit(losses.flatten(jnp.einsum('bpv,bqv->bpq', y, y, precision='highest')))

  def loss(params, stats, s, t, batch, *, step, rng):
    words = divergence(*taps.pair(s, t, student, teacher, 'llava_kd'))
    values = taps.mean_of_each(words, taps.positions(words, batch, mask, 'llava_kd'))
    a, b = taps.pair(s, t, student_image, teacher_image, 'llava_kd')
    values += visual * divergence(a, b).mean(-1)
    values += relation * (1 - jnp.sum(relations(a) * relations(b), -1))
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
