"""Average the teacher's feature down to the student's shape, width too, and match by cosine (tunix)."""

import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.options import Stages
from kdjax.types import Method

WEIGHT = 0.75  # tunix, beside 0.25 on the labels


def pooled_feature(
  *, mask: str | None = None, student: Stages = ('embed',), teacher: Stages = ('embed',)
) -> Method:
  """Feature pooling, as google/tunix has it, with nothing learned; there is no paper.

  Σ over pairs of the mean over positions of 1 - cos(f_S, pool(f_T)) along the last axis, where pool
  averages every axis of the teacher's down to the student's size. Deviations from tunix: the
  windows are as even as possible where the sizes do not divide; pairs of layers are not pooled into
  each other; padding is left out.

  Args:
    mask: the batch key of the validity [B, L] of the positions of sequences [B, L, D]; by default
      `<modality>/mask` of the first student tap, where the batch has it; '' for none.
    student: its taps, [B, D], [B, L, D] or [B, H, W, C].
    teacher: as many taps, on no axis smaller.
  """
  first = student if isinstance(student, str) else student[0]

  def loss(params, stats, s, t, batch, *, step, rng):
    values = []
    for a, b in taps.stages(s, t, student, teacher, 'pooled_feature', rank=None):
      if any(n > m for n, m in zip(a.shape, b.shape, strict=True)):
        raise KdjaxError(
          f'pooled_feature averages the teacher down, and of {teacher!r} {list(b.shape)} is smaller on '
          f'some axis than {list(a.shape)} of {student!r}.'
        )
      b = losses.average_to(b, a.shape[1:])
      values.append(1 - jnp.sum(losses.unit(a) * losses.unit(b), -1))
    return taps.sum_of_layers(values, batch, first, mask, 'pooled_feature'), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
