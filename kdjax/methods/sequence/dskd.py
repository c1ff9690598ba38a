"""Hidden states that cross into the other model's space and its head (DSKD: Zhang et al., 2406.17328)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.nn import losses, taps
from kdjax.nn.adapters import forward
from kdjax.options import Name, Tap, Temperature
from kdjax.types import Method

WEIGHT = 0.5  # the authors' scripts, beside 0.5 on the labels


class Projectors(nn.Module):
  """A linear layer for each direction between D of the student and E of the teacher, and of the queries."""

  student: int
  teacher: int

  @nn.compact
  def __call__(self, of_student, of_teacher, query=None):
    to_teacher = nn.Dense(self.teacher, dtype=of_student.dtype, name='to_teacher')(of_student)
    to_student = nn.Dense(self.student, dtype=of_teacher.dtype, name='to_student')(of_teacher)
    if query is None:
      return to_teacher, to_student, None
    return to_teacher, to_student, nn.Dense(2 * self.teacher, dtype=query.dtype, name='query')(query)


def dskd(
  *,
  temperature: Temperature = 2.0,
  cross: bool = False,
  tokens: Name = 'text/target',
  mask: str | None = 'text/mask',
  text: Name = 'text',
  teacher_tokens: Name = 'text/teacher/target',
  teacher_text: Name = 'text/teacher',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
  hidden: Tap = 'text/tokens',
  teacher_hidden: Tap = 'text/tokens',
  head: Tap = 'text/head',
  teacher_head: Tap = 'text/head',
  words: Tap = 'text/words',
  teacher_words: Tap = 'text/words',
) -> Method:
  """Dual-space distillation (arXiv 2406.17328, sections 3.2 and 3.3): both models through the same head.

  In the student's space, with h the teacher's last hidden states after a learned projector and the student's
  head: the cross-entropy of the target tokens, which trains the projector, plus KL(softmax(head · h / T) ||
  q_T), through which the student alone learns. In the teacher's space, with the student's hidden states after
  another projector and the teacher's head: KL(p_T || softmax(head · projected / T)). The sum, over the
  student's tokens. No gradient reaches a head, and there is no T².

  With `cross` the two may have tokenizers of their own: a cross-model attention finds for each position of
  one what it corresponds to in the other, by the embeddings of the token there and of the next one; in the
  student's space the KL then counts where the likeliest token of head · h is the target. Only positions with
  a target take part.

  `gpt2` and `llama` give these taps. A store would hold the teacher's head beside every example: leave
  `teacher.source` at 'live'.

  Checked against songmzhang/DSKD@4f8c172, code/criterions/dual_space_kd.py and
  dual_space_kd_with_cross_model_attention.py. Deviation: where that code divides by the standard deviation of
  the whole batch with its padding, hidden states get a root mean square of 1 at each position, and embeddings
  are divided by that of their table, so that no example depends on another.

  Args:
    temperature: T, above 0.
    cross: whether the teacher reads the text with a tokenizer of its own; see `data.teacher_tokenizer`.
    tokens: the batch key of the tokens, i32 [B, L], that the positions of `student` predict; negative where
      there is none.
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all that have a target.
    text: the batch key of the student's tokens, i32 [B, L]; with `cross`.
    teacher_tokens: as `tokens` for the teacher, [B, M]; with `cross`.
    teacher_text: as `text` for the teacher, [B, M]; with `cross`.
    student: its logits, [B, L, V].
    teacher: its logits, [B, M, W]; of the student's shape without `cross`.
    hidden: the student's tap of what its head reads, [B, L, D].
    teacher_hidden: the same of the teacher, [B, M, E].
    head: the student's tap of its head's weights, [1, V, D].
    teacher_head: the same of the teacher, [1, W, E].
    words: the student's tap of its word embeddings, [1, V, D]; with `cross`.
    teacher_words: the same of the teacher, [1, W, E]; with `cross`.
  """

  def of_batch(batch, key, like):
    if key not in batch:
      raise unknown('key of the batch in methods.dskd', key, batch)
    if batch[key].shape != like.shape[:2] or like.ndim != 3:
      raise KdjaxError(
        f'dskd cannot pair logits {list(like.shape)} with the key {key!r} {list(batch[key].shape)} of the '
        'batch: it needs [B, L, V] and [B, L].'
      )
    return batch[key]

  def inputs(s, t, batch):
    """What the projectors take: states of both models, and with `cross` queries, and the teacher's keys."""
    h, g = taps.pair(s, t, hidden, teacher_hidden, 'dskd', same_shape=False)
    if not cross:
      return (h, g), None
    a, b = taps.pair(s, t, student, teacher, 'dskd', same_shape=False)
    of_student = indexed(
      jax.lax.stop_gradient(taps.tap(s, words, 'dskd', 'student')),
      of_batch(batch, text, a),
      of_batch(batch, tokens, a),
    )
    table = jax.lax.stop_gradient(taps.tap(t, teacher_words, 'dskd', 'teacher'))
    rms = losses.norm(table, None) / math.sqrt(table.size)
    table = table / jnp.where(rms > 0, rms, 1)
    next_ids = of_batch(batch, teacher_tokens, b)
    keys = indexed(table, of_batch(batch, teacher_text, b), next_ids)
    values = math.sqrt(g.shape[-1]) * losses.unit(g) + keys[..., table.shape[-1] :]
    return (h, values, of_student), keys

  def projectors(s, t):
    h, g = taps.pair(s, t, hidden, teacher_hidden, 'dskd', same_shape=False)
    return Projectors(h.shape[-1], g.shape[-1])

  def init(rng, s, t, batch):
    return projectors(s, t).init(rng, *inputs(s, t, batch)[0])['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'dskd', same_shape=not cross)
    ids = of_batch(batch, tokens, q)
    weights = taps.positions(q[..., 0], batch, mask, 'dskd') * (ids >= 0)
    given, keys = inputs(s, t, batch)
    to_teacher, to_student, query = forward(projectors(s, t), params, *given)
    if keys is not None:
      theirs = taps.positions(p[..., 0], batch, None, 'dskd') * (of_batch(batch, teacher_tokens, p) >= 0)
      scores = jnp.einsum('ble,bme->blm', query, keys, precision='highest') / math.sqrt(keys.shape[-1])
      scores = jnp.where((weights[:, :, None] > 0) & (theirs[:, None] > 0), scores, losses.RULED_OUT)
      to_student = mixed(scores, to_student)
      to_teacher = mixed(scores.swapaxes(1, 2), to_teacher)
    else:
      theirs = weights
    own = logits(to_student, taps.tap(s, head, 'dskd', 'student'))
    other = logits(to_teacher, taps.tap(t, teacher_head, 'dskd', 'teacher'))
    likelihood = losses.log_likelihood(own, ids)
    right = (jnp.argmax(own, -1) == ids) if cross else 1
    in_student = right * kl(jax.lax.stop_gradient(own), q) - likelihood
    total, count = taps.mean_over_positions(in_student, weights)
    return (total + taps.mean_over_positions(kl(p, other), theirs)[0], count), stats

  def kl(p, q):
    log_q, log_p, allowed = losses.log_distributions(q, p, temperature)
    return losses.divergence(log_p, log_q, allowed)

  return Method(init, loss)


def indexed(table, ids, next_ids):
  """The embeddings of each token and of the next one, side by side: [B, L, 2D] by a table [1, V, D]."""
  return jnp.concatenate([table[0][jnp.maximum(x, 0)] for x in (ids, next_ids)], -1)


def mixed(scores, values):
  """Values [B, M, D] by the attention of scores [B, L, M]."""
  return jnp.einsum('blm,bmd->bld', jax.nn.softmax(scores), values, precision='highest')


def logits(states, head):
  """[B, L, V] of states [B, L, D], by a head [1, V, D] that no gradient reaches."""
  return jnp.einsum('bld,vd->blv', states, jax.lax.stop_gradient(head)[0], precision='highest')
