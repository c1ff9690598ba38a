"""Attention scores: match what each position attends to (TinyBERT, Jiao et al., 1909.10351)."""

from typing import Literal

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.nn import losses, taps
from kdjax.options import Stages
from kdjax.types import Method

WEIGHT = 1.0  # TextBrewer, on each pair of layers

LAYERS = ('text/attention1', 'text/attention2')
MATCHES = ('mse', 'mse_sum', 'ce', 'ce_mean')


def attention_match(
  *,
  match: Literal['mse', 'mse_sum', 'ce', 'ce_mean'] = 'mse',
  zero_negative: bool = False,
  softmax_over_padding: bool = False,
  mask: str | None = None,
  student: Stages = LAYERS,
  teacher: Stages = LAYERS,
) -> Method:
  """Attention scores of paired layers, before their softmax (TinyBERT, arXiv 1909.10351, equation 7).

  Σ over pairs of mean (A_S - A_T)² over heads, valid queries and valid keys, or of the mean over
  heads and valid queries of -Σ over valid keys of softmax(A_T) · log softmax(A_S), which is not 0
  where the two agree. The means run over the whole batch, so a longer text counts for more, as in
  TextBrewer.

  Args:
    match: 'mse', 'ce', or 'mse_sum' and 'ce_mean', which first add up or average the heads, so that
      their numbers may differ.
    zero_negative: TextBrewer without a mask: a score of -0.001 or less counts as 0 in the squared
      error and as a probability of 0 in the teacher. Meant for padding, it hits all such scores.
    softmax_over_padding: TextBrewer with a mask: the softmax of 'ce' runs over padding too, whose
      keys are left out after it.
    mask: the batch key of the validity [B, L] of the positions; by default `<modality>/mask` of the
      first student tap, where the batch has it; '' for none.
    student: its taps, [B, heads, L, L], all of one length.
    teacher: as many taps.
  """
  if match not in MATCHES:
    raise unknown('match of methods.attention_match', match, MATCHES)
  together = {'mse_sum': jnp.sum, 'ce_mean': jnp.mean}.get(match)
  first = student if isinstance(student, str) else student[0]

  def squared_error(a, b, valid):
    if zero_negative:
      a, b = (jnp.where(x <= -1e-3, 0, x) for x in (a, b))
    both = valid[:, None, :, None] * valid[:, None, None] > 0
    return jnp.mean(jnp.where(both, a - b, 0) ** 2, 1)

  def cross_entropy(a, b, valid):
    keys = valid[:, None, None] > 0
    if not softmax_over_padding:
      a, b = (jnp.where(keys, x, jnp.finfo(x.dtype).min) for x in (a, b))
    p, log_q = jax.nn.softmax(b), jax.nn.log_softmax(a)
    some = keys & (p > 0) & ~(zero_negative & (b <= -1e-3))
    return jnp.mean(-jnp.sum(jnp.where(some, p * log_q, 0), -1), 1)

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = taps.stages(s, t, student, teacher, 'attention_match', differ=(1,))
    valid = taps.valid_positions(batch, first, pairs[0][0][:, 0], mask, 'attention_match')
    values = []
    for a, b in pairs:
      if together:
        a, b = (together(x, 1, keepdims=True) for x in (a, b))
      if a.shape != b.shape or a.shape[2:] != valid.shape[1:] * 2:
        raise KdjaxError(
          f'attention_match cannot pair {student!r}, {list(a.shape)}, with {teacher!r}, {list(b.shape)}: '
          "it needs [B, heads, L, L] of one L; match='mse_sum' and 'ce_mean' take other heads."
        )
      values.append((squared_error if match.startswith('mse') else cross_entropy)(a, b, valid))
    weights = valid[:, :, None] * valid[:, None] if match.startswith('mse') else valid
    return taps.mean_over_positions(losses.total(values), weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
