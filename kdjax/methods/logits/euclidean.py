"""Euclidean distance between class scores or their log-softmaxes (Beyer et al., 2106.05237)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 1.0  # big_vision, its only loss
NUMBERS = True  # pairs the numbers of a regression as well as class scores


def euclidean(
  *,
  logsoftmax: bool = False,
  squared: bool = False,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """The distances of big_vision beside KL (arXiv 2106.05237): euclidean, l2, logsoftmax_euclidean.

  sqrt(Σ (student - teacher)² + 1e-12) over all axes but the batch, mean over the examples; the
  1e-12 keeps the gradient finite where the two agree.

  Args:
    logsoftmax: compares the log-softmaxes.
    squared: leaves out the root and the 1e-12 (l2): a sum over the classes, not a mean.
    student: its tap, [B, ...].
    teacher: its tap, of the same shape. A class that both rule out adds nothing.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'euclidean')
    if logsoftmax:
      q, p = jax.nn.log_softmax(q), jax.nn.log_softmax(p)
    q, p = losses.both_masked(q, p)
    values = jnp.sum(jnp.square(losses.flatten(q - p)), -1)
    if not squared:
      values = jnp.sqrt(values + 1e-12)
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
