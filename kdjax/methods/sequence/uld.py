"""Sorted next-token probabilities, across vocabularies (ULD: Boizard et al., 2402.12030)."""

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import taps
from kdjax.options import Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.5  # the authors' repository, beside 1 on the labels


def uld(
  *,
  student_temperature: Temperature = 1.0,
  teacher_temperature: Temperature = 1.0,
  mask: str | None = 'text/mask',
  teacher_mask: str | None = None,
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
) -> Method:
  """Universal logit distillation (arXiv 2402.12030): the Wasserstein distance in closed form.

  Σ_i |q_(i) - p_(i)|, q and p the softmax of the student's and the teacher's logits, each sorted from
  high to low, the smaller vocabulary filled up with zeros. The n-th position that counts of one
  is paired with the n-th of the other, and what is longer is cut off. There is no T², as in the
  paper. Deviation from the released code: the mean is over the tokens of the batch, there over
  the tokens of each example first.

  Args:
    student_temperature: divides the student's logits.
    teacher_temperature: divides the teacher's logits.
    mask: the batch key of the student's positions that count, [B, L]: a validity, or target tokens
      (-100: none) if its name does not end in 'mask'; None counts all.
    teacher_mask: the same for the teacher's, [B, M], with a tokenizer of its own; None: as `mask`.
    student: its tap, [B, L, V].
    teacher: its tap, [B, M, W].
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'uld', same_shape=False)
    if a.ndim != 3 or b.ndim != 3:
      raise KdjaxError(
        f'uld cannot pair the student tap {student!r} {list(a.shape)} with the teacher tap '
        f'{teacher!r} {list(b.shape)}: it needs [B, L, V] and [B, M, W].'
      )

    def front(logits, temperature, key):
      """Sorted probabilities of the positions that count, moved to the front, and their weights."""
      p = -jnp.sort(-jax.nn.softmax(logits / temperature))
      weights = taps.positions(p[..., 0], batch, key, 'uld')
      order = jnp.argsort(weights <= 0, axis=1, stable=True)
      return jnp.take_along_axis(p, order[..., None], 1), jnp.take_along_axis(weights, order, 1)

    q, m = front(a, student_temperature, mask)
    p, n = front(b, teacher_temperature, teacher_mask or mask)
    length, width = min(q.shape[1], p.shape[1]), max(q.shape[2], p.shape[2])
    q, p = (jnp.pad(x[:, :length], ((0, 0), (0, 0), (0, width - x.shape[2]))) for x in (q, p))
    values = jnp.sum(jnp.abs(q - p), -1)
    return taps.mean_over_positions(values, jnp.minimum(m[:, :length], n[:, :length])), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
