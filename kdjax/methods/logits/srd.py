"""Class scores, and a projected embedding under a log-sum loss (Miles et al., 2303.11098, SRD)."""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.nn import adapters, losses, taps
from kdjax.options import NonNegative, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the authors' code, beside 1 on the labels, with the factors below


def srd(
  *,
  features: NonNegative = 2.0,
  exponent: Annotated[float, Interval(ge=2, le=20)] = 4.0,
  temperature: Temperature = 1.0,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
  student_embed: Tap = 'embed',
  teacher_embed: Tap = 'embed',
) -> Method:
  """Simple recipe distillation (arXiv 2303.11098).

  features · log Σ |N(W f_S) - N(f_T)|^exponent, summed over examples and channels, plus
  T² · KL(softmax(teacher / T) || softmax(student / T)), mean over the examples. W is a learned
  linear layer with a bias; N is batch norm with no scale, over the batch at hand, eps 1e-4. It
  counts once a batch, and padding takes no part in it. 1e-12 is added inside the logarithm,
  which has no bound where the two features agree.

  Args:
    features: the factor of the features.
    exponent: of the difference, 2 or more; 4 in the authors' code.
    temperature: T, above 0. The authors have 1; torchdistill leaves out T².
    student: its tap for the logits, [..., C].
    teacher: its tap for the logits, of the same shape.
    student_embed: its tap for the feature, [B, D], or [B, ..., D], which is averaged to that.
    teacher_embed: its tap for the feature, [B, E] or [B, ..., E].
  """

  def embeds(s, t):
    pair = taps.pair(s, t, student_embed, teacher_embed, 'srd', same_shape=False)
    a, b = (x.reshape(x.shape[0], -1, x.shape[-1]).mean(1) for x in pair)
    return a, b, nn.Dense(b.shape[-1], dtype=a.dtype)

  def init(rng, s, t, batch):
    a, _, projector = embeds(s, t)
    return projector.init(rng, a)['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'srd')
    values = temperature**2 * taps.mean_over_axes(losses.kl(p, q, temperature))
    total, one = taps.as_batch_term(taps.mean_over_examples(values, batch))
    a, b, projector = embeds(s, t)
    mask = taps.example_mask(batch, a)[:, None]
    n = jnp.maximum(mask.sum(), 1)

    def norm(x):
      x = x - jnp.sum(x * mask, 0) / n
      return x / jnp.sqrt(jnp.sum(x * x * mask, 0) / n + 1e-4)

    difference = jnp.abs(norm(adapters.forward(projector, params, a)) - norm(b))
    log = jnp.log(jnp.sum(difference**exponent * mask) + 1e-12)
    return (total + features * jnp.where(mask.sum() > 0, log, 0), one), stats

  return Method(init, loss, relational=True)
