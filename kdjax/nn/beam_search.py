"""Beam search: the likeliest text of a language model, among those that a beam of prefixes reaches."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kdjax.nn.generate import Written, after, begun, make_forward
from kdjax.types import Array, Batch

PENALTY = 0.6  # α of GNMT


class Beam(NamedTuple):
  """K texts a row, the best first.

  Attributes:
    score: f32 [B, K], log-probability, divided by the penalty of a finished text; -inf for none.
    size: i32 [B, K], tokens.
    ids: i32 [B, K, N].
    log_q: f32 [B, K, N], of each token.
  """

  score: Array
  size: Array
  ids: Array
  log_q: Array


def length_penalty(size: Array | int, penalty: float) -> Array:
  """lp of GNMT (Wu et al., 1609.08144, equation 14), ((5 + size) / 6)^α; 1 at α = 0."""
  return jnp.power((5.0 + size) / 6.0, penalty)


def pick(tree, rows: Array):
  """Of arrays [B, J, ...] those at `rows` i32 [B, K] of the second axis."""

  def of_one(x):
    return jnp.take_along_axis(x, rows.reshape(*rows.shape, *[1] * (x.ndim - 2)), 1)

  return jax.tree.map(of_one, tree)


def best(beam: Beam, width: int) -> Beam:
  """The `width` texts of the highest score."""
  return pick(beam, jax.lax.top_k(beam.score, width)[1])


def make_search(
  apply: Callable, end: int, length: int, beams: int, penalty: float = PENALTY, never: tuple[int, ...] = ()
) -> Callable:
  """`search(variables, batch, rng=None, enabled=True) -> Written`, a pure function as `make_generate`'s.

  Of the texts that end within `length` tokens, the one with the highest log p / lp(size) is returned; where
  no prefix has ended, the likeliest one, cut. A batch goes on until no prefix can become better than what its
  row has, so that a text does not depend on its batch, up to rounding.

  Args:
    apply: as `make_generate` takes it.
    end: the token that ends a text.
    length: N, the most tokens that are written.
    beams: K, prefixes that are kept at each length.
    penalty: α of the length normalisation; 0 for the plain log-probability, which favours short texts.
    never: tokens that are not written, such as that of unknown words; the others' probabilities stay.

  Raises:
    KdjaxError: from `search`, for a model that cannot go on with a text.
  """
  forward = make_forward(apply)

  def log_likelihood(logits):
    log_p = jax.nn.log_softmax(logits)
    return log_p.at[:, list(never)].set(-jnp.inf) if never else log_p

  def grow(n, alive: Beam, ended: Beam, log_p):
    """(alive, ended, the prefix [B, K] that each of alive goes on) after token n, of `log_p` [B, K, V]."""
    rows, width, tokens = log_p.shape
    totals = (alive.score[..., None] + log_p).reshape(rows, -1)
    score, flat = jax.lax.top_k(totals, min(2 * width, width * tokens))  # an end leaves room for a prefix
    parent, token = flat // tokens, (flat % tokens).astype(jnp.int32)
    each = jnp.take_along_axis(log_p.reshape(rows, -1), flat, 1)
    texts = pick(alive, parent)
    texts = Beam(score, texts.size + 1, texts.ids.at[:, :, n].set(token), texts.log_q.at[:, :, n].set(each))
    done = token == end
    normal = jnp.where(done, score / length_penalty(texts.size, penalty), -jnp.inf)
    pool = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), ended, texts._replace(score=normal))
    going = texts._replace(score=jnp.where(done, -jnp.inf, score))
    chosen = jax.lax.top_k(going.score, width)[1]
    return pick(going, chosen), best(pool, width), pick(parent, chosen)

  def search(variables, batch: Batch, rng=None, enabled=True) -> Written:
    rows, start = len(batch['text']), batch['text/mask'].sum(1).astype(jnp.int32)
    logits, cache = forward(variables, begun(batch, length))
    log_p = jnp.repeat(log_likelihood(logits)[:, None], beams, 1)
    cache = jax.tree.map(lambda x: jnp.repeat(x, beams, 0), cache)
    zeros = jnp.zeros((rows, beams, length))
    nothing = Beam(zeros[..., 0] - jnp.inf, zeros[..., 0].astype(jnp.int32), zeros.astype(jnp.int32), zeros)
    one = nothing._replace(score=nothing.score.at[:, 0].set(0))  # all prefixes are the same yet
    at = jnp.repeat(start, beams)

    def continued(cache, parent):
      whole = jax.tree.map(lambda x: x.reshape(rows, beams, *x.shape[1:]), cache)
      return jax.tree.map(lambda x: x.reshape(rows * beams, *x.shape[2:]), pick(whole, parent))

    def step(carry):
      n, alive, ended, cache = carry
      token = alive.ids[:, :, n].reshape(-1)
      logits, cache = forward(variables, after(token, at + n, cache))
      log_p = log_likelihood(logits).reshape(rows, beams, -1)
      alive, ended, parent = grow(n + 1, alive, ended, log_p)
      return n + 1, alive, ended, continued(cache, parent)

    def unfinished(carry):
      n, alive, ended, _ = carry
      reachable = alive.score[:, 0] / length_penalty(length, penalty)  # scores only fall
      return (n + 1 < length) & enabled & (reachable > ended.score[:, 0]).any()

    alive, ended, parent = grow(0, one, nothing, log_p)
    _, alive, ended, _ = jax.lax.while_loop(
      unfinished, step, (jnp.int32(0), alive, ended, continued(cache, parent))
    )
    has = jnp.isfinite(ended.score[:, 0])
    text = jax.tree.map(
      lambda a, b: jnp.where(has.reshape(-1, *[1] * (a.ndim - 2)), a[:, 0], b[:, 0]), ended, alive
    )
    mask = (jnp.arange(length) < text.size[:, None]) & enabled
    return Written(jnp.where(mask, text.ids, end), mask, jnp.where(mask, text.log_q, 0))

  return search
