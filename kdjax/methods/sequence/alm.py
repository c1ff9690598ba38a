"""Likelihoods of the chunks that two tokenizers have in common (ALM: Minixhofer et al., 2503.20083)."""

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.nn import losses, taps
from kdjax.options import Name, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # in no table; the authors weigh ALM and the loss on the labels by their gradients
EPS = 1e-6  # keeps a probability below 1


def alm(
  *,
  temperature: Temperature = 100.0,
  entropy: bool = True,
  tokens: Name = 'text/target',
  chunk: Name = 'text/chunk',
  teacher_tokens: Name = 'text/teacher/target',
  teacher_chunk: Name = 'text/teacher/chunk',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
) -> Method:
  """Approximate likelihood matching (arXiv 2503.20083): a teacher with any tokenizer.

  A chunk is a piece of the response between two places where a token of both models ends; its likelihood is
  the product of those of its tokens. KL(Bernoulli(p(chunk)^(1/τ)) || Bernoulli(q(chunk)^(1/τ))), mean over
  the chunks that both models read whole. A high τ weighs likely and unlikely chunks alike. There is no τ².
  `data.teacher_tokenizer` puts the chunks into the batch.

  Checked against copies of tokenkit/training/losses.py (`compute_alm_loss` with 'binary_ce') and
  tokenkit/align.py in stellaevat/tokenkit@105254b and @261ae1f. Deviations: what debiases the ends of chunks
  is not here, the probability that a space follows and the joining of chunks by it; and places are counted in
  characters of the text.

  Args:
    temperature: τ, 1 or more by its sense.
    entropy: whether the teacher's entropy is taken off, so that the loss is 0 where the two agree; False is
      the authors' binary cross-entropy. The gradient is the same.
    tokens: the batch key of the tokens, i32 [B, L], that the positions of `student` predict; negative where
      there is none.
    chunk: the batch key of the chunk that each of them belongs to, i32 [B, L], from 0; negative for none.
    teacher_tokens: as `tokens` for the teacher, [B, M].
    teacher_chunk: as `chunk` for the teacher, [B, M].
    student: its logits, [B, L, V].
    teacher: its logits, [B, M, W], or its log-likelihoods of `teacher_tokens`, [B, M], such as 'likelihood'.
  """

  def of_chunks(x, batch, key, tokens, n):
    """(log-likelihoods, numbers of tokens) of n chunks, [B, n], of logits or log-likelihoods."""
    for name in (key, tokens):
      if name not in batch:
        raise unknown('key of the batch in methods.alm', name, batch)
      if batch[name].shape != x.shape[:2]:
        raise KdjaxError(
          f'alm cannot pair the tap {list(x.shape)} with the key {name!r} {list(batch[name].shape)} of the '
          'batch: it needs [B, L, V] and [B, L].'
        )
    ids = batch[tokens]
    values = losses.log_likelihood(x, ids) if x.ndim == 3 else x
    place = jnp.where((batch[key] >= 0) & (ids >= 0), batch[key], n)  # none: outside, and dropped
    add = jax.vmap(lambda row, i, new: row.at[i].add(new, mode='drop'))
    empty = jnp.zeros((len(x), n), values.dtype)
    values = jnp.maximum(jnp.where(place < n, values, 0), losses.RULED_OUT)
    return add(empty, place, values), add(empty, place, jnp.ones_like(values))

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'alm', same_shape=False)
    if a.ndim != 3 or b.ndim not in (2, 3):
      raise KdjaxError(
        f'alm cannot pair the student tap {student!r} {list(a.shape)} with the teacher tap {teacher!r} '
        f'{list(b.shape)}: it needs [B, L, V], and [B, M, W] or [B, M].'
      )
    n = min(a.shape[1], b.shape[1])  # a chunk has a token of both
    log_q, mine = of_chunks(a, batch, chunk, tokens, n)
    log_p, theirs = of_chunks(b, batch, teacher_chunk, teacher_tokens, n)
    valid = taps.positions(log_q, batch, None, 'alm') * ((mine > 0) & (theirs > 0))
    values = bernoulli(log_p / temperature - EPS, log_q / temperature - EPS, entropy)
    return taps.mean_over_positions(values, valid), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)


def bernoulli(log_p, log_q, entropy):
  """KL of two Bernoulli distributions by the logs of their probabilities; without `entropy` -Σ p log q."""
  p, rest = jnp.exp(log_p), -jnp.expm1(log_p)
  cross = -p * log_q - rest * log1mexp(log_q)
  return cross + p * log_p + rest * log1mexp(log_p) if entropy else cross


def log1mexp(x):
  """log(1 - exp(x)) of x below 0."""
  near = x > -0.7
  return jnp.where(
    near, jnp.log(-jnp.expm1(jnp.where(near, x, -0.7))), jnp.log1p(-jnp.exp(jnp.where(near, -0.7, x)))
  )
