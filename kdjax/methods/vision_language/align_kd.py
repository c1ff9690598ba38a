"""What words look at in an image, and the image's tokens that matter to them (Align-KD, 2412.01282)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.nn.adapters import forward
from kdjax.options import Count, NonNegative, Tap
from kdjax.types import Method

WEIGHT = 1.0  # the authors' code, every term, beside 1 on the labels


def align_kd(
  *,
  words: NonNegative = 1.0,
  attention: NonNegative = 1.0,
  visual: NonNegative = 1.0,
  chosen: NonNegative = 0.1,
  k: Count = 32,
  released: bool = False,
  mask: str | None = 'text/mask',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
  student_attention: Tap = 'image_attention1',
  teacher_attention: Tap = 'image_attention1',
  student_tokens: Tap = 'image_tokens',
  teacher_tokens: Tap = 'image_tokens',
) -> Method:
  """Distillation of the alignment of words and image (arXiv 2412.01282, section 3).

  `words` · KL(p || q) of the next token + `attention` · KL(A_T || A_S) of what a position of the text attends
  to in the first layer, the mean of the heads, over the image's places and what is left for all others as one
  more; both mean over an example's positions that count. + `visual` · (the mean of (P v_T - v_S)² over the
  image's tokens and their values + `chosen` · the same over the `k` tokens that the teacher's text attends to
  the most, all positions together); mean over the examples. P is a learned linear layer.

  Checked against fqhank/Align-KD@55d8c24, mobilevlm/train/trainer.py. Deviations: the code has no entry for
  what is left, so that a student gains by looking at the image alone, adds 1e-8 to what is attended to, takes
  the mean over the places where this is the sum, and multiplies it by the number of heads (`released` does
  all of that); it optimises the student's weights alone, so that P stays as it is drawn; it takes a batch
  whose texts differ in length without distillation; the KL of words has the teacher's entropy taken off,
  which has no gradient; and means are an example's, where the code's are the batch's.

  Args:
    words: the factor of the KL of the next token.
    attention: the factor of the KL of the attention.
    visual: the factor of the image's tokens.
    chosen: the factor, within it, of those that are attended to the most.
    k: how many those are; all where there are fewer.
    released: whether the attention is compared as the code does it.
    mask: the batch key of the positions of the text that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its scores of words, [B, L, V].
    teacher: its tap, of the same shape.
    student_attention: scores before the softmax, [B, heads, L, P], or [B, heads, L, P + 1] with the others
      in the last, such as `image_attention1` of the models `vision_language` and `captioner`.
    teacher_attention: its tap, of the same shape but for the heads.
    student_tokens: the image's tokens that the words see, [B, P, D], such as `image_tokens` of
      `vision_language` and `memory` of `captioner`.
    teacher_tokens: its tap, [B, P, E].
  """

  def tokens(s, t):
    return taps.stages(s, t, student_tokens, teacher_tokens, 'align_kd', rank=3, differ=(-1,))[0]

  def init(rng, s, t, batch):
    a, b = tokens(s, t)
    return nn.Dense(a.shape[-1]).init(rng, b)['params'], {}

  def maps(s, t, places):
    a, b = taps.pair(s, t, student_attention, teacher_attention, 'align_kd', same_shape=False)
    if a.ndim != 4 or b.ndim != 4 or a.shape[2:] != b.shape[2:] or a.shape[-1] not in (places, places + 1):
      raise KdjaxError(
        f'align_kd cannot pair the student tap {student_attention!r} {list(a.shape)} with the teacher tap '
        f'{teacher_attention!r} {list(b.shape)}: it needs [B, heads, L, P] or [B, heads, L, P + 1] of '
        f'{places} tokens of the image.'
      )
    means = [jax.nn.logsumexp(jax.nn.log_softmax(x), 1) - jnp.log(x.shape[1]) for x in (a, b)]
    return *means, a.shape[1]

  def looks(log_q, log_p, places, heads):
    """`[B, L]`: how much the attention of a position differs."""
    if not released:
      return losses.expected(jnp.exp(log_p), log_p - log_q)
    p, q = (jnp.exp(x[..., :places]) + 1e-8 for x in (log_p, log_q))
    return heads * jnp.mean(p * jnp.log(p / q), -1)

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'align_kd')
    log_q, log_p, allowed = losses.log_distributions(a, b)
    said = losses.divergence(log_p, log_q, allowed)
    weights = taps.positions(said, batch, mask, 'align_kd')
    v, target = tokens(s, t)
    log_a, log_b, heads = maps(s, t, v.shape[1])
    seen = looks(log_a, log_b, v.shape[1], heads)
    values = taps.mean_of_each(words * said + attention * seen, weights)
    far = jnp.mean((forward(nn.Dense(v.shape[-1], dtype=v.dtype), params, target) - v) ** 2, -1)  # [B, P]
    total = jnp.sum(jnp.exp(log_b[..., : v.shape[1]]) * weights[..., None], 1)
    _, best = jax.lax.top_k(total, min(k, v.shape[1]))
    values += visual * (far.mean(-1) + chosen * jnp.take_along_axis(far, best, 1).mean(-1))
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
