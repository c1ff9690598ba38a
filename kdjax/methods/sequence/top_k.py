"""Next-token KL over the teacher's k most likely tokens, as cached top-k scores allow."""

from typing import Literal

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.nn import losses, taps
from kdjax.options import Count, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # in no table; that of the whole KL, as in DistiLLM's scripts

REST = ('renormalise', 'zero', 'tail')


def top_k(
  *,
  k: Count = 128,
  rest: Literal['renormalise', 'zero', 'tail'] = 'renormalise',
  temperature: Temperature = 1.0,
  indices: Tap | None = None,
  mask: str | None = 'text/mask',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
) -> Method:
  """T² · Σ p (log p - log q) over the k tokens most likely for the teacher, mean over the tokens.

  No paper; three treatments of the rest of the vocabulary that are in use. 'renormalise' (Tunix,
  MaxText): p and q are made to sum to 1 over the k. 'zero' (DistillKit): both keep the softmax of
  the whole vocabulary, and the rest of the sum is dropped; it may be negative, and pulls all of
  q onto the k. 'tail': as 'zero', plus one term for all the rest as one token, so that it is a KL and 0
  where the two agree. At k = V all three are the KL.

  Args:
    k: how many tokens; all of a smaller vocabulary.
    rest: 'renormalise', 'zero' or 'tail'.
    temperature: T, above 0.
    indices: the teacher's tap of the token ids, i32 [B, L, K], where only the top scores are cached;
      `teacher` is then [B, L, K], their log-probabilities at T = 1, and `k` is not used. 'zero' and
      'tail' then need a temperature of 1.
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its tap, [B, L, V].
    teacher: its tap, of the same shape.

  Raises:
    KdjaxError: if `rest` is unknown, or needs a temperature of 1.
  """
  if rest not in REST:
    raise unknown('rest of methods.top_k', rest, REST)
  if indices and rest != 'renormalise' and temperature != 1:
    raise KdjaxError(f'top_k with rest={rest!r} and indices needs temperature=1, it was given {temperature}.')

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'top_k', same_shape=indices is None)
    log_q, _, allowed = losses.log_distributions(a, a, temperature)
    if indices is None:
      all_p, _, _ = losses.log_distributions(b, b, temperature)
      log_p, chosen = jax.lax.top_k(all_p, min(k, b.shape[-1]))
    else:
      if indices not in t:
        raise unknown('tap of the teacher in methods.top_k', indices, t)
      log_p, chosen = losses.divide(b, temperature), t[indices]
      if chosen.shape != b.shape or chosen.shape[:-1] != a.shape[:-1]:
        raise KdjaxError(
          f'top_k cannot pair the student tap {student!r} {list(a.shape)} with the teacher taps {teacher!r} '
          f'{list(b.shape)} and {indices!r} {list(chosen.shape)}: it needs [B, L, V] and twice [B, L, K].'
        )
    top_q = jnp.take_along_axis(log_q, chosen, -1)
    allowed = jnp.take_along_axis(allowed, chosen, -1) & ~losses.ruled_out(log_p)
    log_p = jnp.where(allowed, log_p, -1e30)
    if rest == 'renormalise':
      log_p, top_q = jax.nn.log_softmax(log_p), jax.nn.log_softmax(top_q)
    values = losses.divergence(log_p, top_q, allowed)
    if rest == 'tail' and chosen.shape[-1] < a.shape[-1]:
      in_top_k = jnp.put_along_axis(jnp.zeros(a.shape, bool), chosen, True, -1, inplace=False)
      tail_q = jax.nn.logsumexp(jnp.where(in_top_k, -1e30, log_q), -1)
      if indices is None:
        tail_p = jax.nn.logsumexp(jnp.where(in_top_k, -1e30, all_p), -1)
      else:  # the probability outside the top k; 0 where rounding makes it negative
        remaining = 1 - jnp.exp(log_p).sum(-1)
        tail_p = jnp.where(remaining > 0, jnp.log(jnp.where(remaining > 0, remaining, 1)), -1e30)
      values += jnp.exp(tail_p) * (tail_p - tail_q)
    weights = taps.positions(values, batch, mask, 'top_k')
    return taps.mean_over_positions(temperature**2 * values, weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
