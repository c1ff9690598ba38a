"""Skewed KL on the teacher's responses, skewed reverse KL on the student's (DistiLLM-2: Ko, 2503.07067)."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.errors import KdjaxError, unknown
from kdjax.nn import losses, taps
from kdjax.options import Count, Name, Share, Tap
from kdjax.types import Method

WEIGHT = (
  2.0  # the released code's mean over pairs of a teacher's and a student's response, in place of labels
)
STEPS = 'steps'  # the option that is filled in with the steps of the training
LEAST = 0.01  # the smallest skew
Skew = Annotated[float, Interval(ge=LEAST, lt=1)]


def distillm2(
  *,
  skew: Skew = 0.1,
  anchor: Count = 10,
  last: Share = 0.5,
  steps: Count = 1000,
  released: bool = False,
  by_student: Name = 'text/by_student',
  tokens: Name = 'text/target',
  mask: str | None = 'text/mask',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
) -> Method:
  """Contrastive distillation (arXiv 2503.07067): a loss for each author of the responses.

  (2 - β) · KL(p || α p + (1 - α) q) of a response that the teacher wrote, or the data, and
  β · KL(q || (1 - α) p + α q) of one that the student wrote: the mean over a response's tokens, then over the
  responses. β grows from 1 to 1 + `last` in the first half of the training. α is each response's own, from
  0.01 to `skew`: the one for which (1 - α) · gap is nearest to (1 - skew) · m. gap is exp(mean log p) -
  exp(mean log q) of its tokens, and the negative of that for the student's; m is the mean gap of the first
  `anchor` batches of the same author, in which α is `skew`. No gradient goes through α.

  `on_policy.share=0.5` makes half of the batches the student's own; the others hold the responses of the
  data, which the authors let the teacher write. Checked against a copy of the authors' trainer in
  wind123mountain/NNM@599fdee, src/distillm_trainer.py. Deviations: the two responses to a prompt are not in
  one batch; and m is kept for each author, as that code means to, where it looks the mean up in vain.

  Args:
    skew: the largest α, and the α of the first batches.
    anchor: batches that m is the mean of.
    last: by how much β grows.
    steps: of the training, which a recipe fills in.
    released: α stays at `skew` and β at 1, and no gradient goes through the student's share of the mixture
      in the reverse KL, as in the authors' code.
    by_student: the batch key, [B], that is not 0 for responses of the student; without it there are none.
    tokens: the batch key of the tokens, i32 [B, L], that the positions of `student` predict; negative where
      there is none.
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its tap, [B, L, V].
    teacher: its tap, of the same shape.
  """

  def init(rng, s, t, batch):
    return {}, {} if released else {k: jnp.zeros(2, jnp.float32) for k in ('gap', 'batches')}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'distillm2')
    if tokens not in batch:
      raise unknown('key of the batch in methods.distillm2', tokens, batch)
    ids = batch[tokens]
    if a.ndim != 3 or ids.shape != a.shape[:-1]:
      raise KdjaxError(
        f'distillm2 cannot pair the student tap {student!r} {list(a.shape)} with the key {tokens!r} '
        f'{list(ids.shape)} of the batch: it needs [B, L, V] and [B, L].'
      )
    log_q, log_p, allowed = losses.log_distributions(a, b)
    weights = taps.positions(log_q[..., 0], batch, mask, 'distillm2') * (ids >= 0)
    n = jnp.maximum(weights.sum(1), 1)
    valid = taps.example_mask(batch, n) * (weights.sum(1) > 0)
    own = jnp.asarray(batch.get(by_student, jnp.zeros(len(ids)))) > 0

    def of_response(values):
      return jnp.sum(jnp.where(weights > 0, values, 0) * weights, 1) / n

    if released:
      alpha, beta = jnp.full_like(n, skew), 1.0
    else:
      p, q = (jnp.exp(of_response(losses.log_likelihood(x, ids))) for x in (b, a))
      gap = jax.lax.stop_gradient(jnp.where(own, q - p, p - q))
      alpha = skews(gap, own.astype(jnp.int32), stats, skew, anchor)
      stats = moved(stats, gap, own, valid, anchor)
      beta = 1 + last * jnp.minimum(2 * step / steps, 1)
    share = alpha[:, None, None]
    forward = losses.divergence(log_p, losses.log_mixture(log_p, log_q, share), allowed)
    still = jax.lax.stop_gradient(log_q) if released else log_q
    reverse = losses.divergence(log_q, losses.log_mixture(still, log_p, share), allowed)
    values = jnp.where(own, beta * of_response(reverse), (2 - beta) * of_response(forward))
    return (jnp.sum(jnp.where(valid > 0, values, 0) * valid), jnp.sum(valid)), stats

  return Method(init, loss)


def skews(gap, author, stats, most, anchor):
  """α [B] of responses with a `gap`; `author` [B] is 0 for the teacher and 1 for the student."""
  known = stats['batches'] >= anchor
  mean = stats['gap'] / jnp.where(stats['batches'] > 0, stats['batches'], 1)
  nearest = 1 - (1 - most) * mean[author] / jnp.where(gap == 0, 1, gap)
  return jnp.where(known[author] & (gap != 0), jnp.clip(nearest, LEAST, most), most).astype(gap.dtype)


def moved(stats, gap, own, valid, anchor):
  """The sums of gaps and of batches [2], of the teacher's and of the student's, with those of this batch.

  Each example adds its share of the batch, so that parts of it add up.
  """
  author = jnp.stack([~own, own], 1) * (valid / jnp.maximum(valid.sum(), 1))[:, None]
  new = {'gap': jnp.sum(author * jnp.where(valid > 0, gap, 0)[:, None], 0), 'batches': jnp.sum(author, 0)}
  open_ = stats['batches'] < anchor
  return {k: stats[k] + jnp.where(open_, new[k], 0).astype(stats[k].dtype) for k in stats}
