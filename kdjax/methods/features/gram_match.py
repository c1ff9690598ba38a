"""Gram matrices of two layers' tokens: TextBrewer's variants of NST (1707.01219) and FSP (CVPR 2017)."""

from typing import Literal

import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.nn import taps
from kdjax.options import Stages
from kdjax.types import Method

WEIGHT = 1.0  # TextBrewer

LAYERS = ('text/block1', 'text/block2')


def gram_match(
  *,
  over: Literal['positions', 'features'] = 'positions',
  mask: str | None = None,
  student: Stages = LAYERS,
  teacher: Stages = LAYERS,
) -> Method:
  """TextBrewer's `mmd` (also `nst`) and `fsp` losses (arXiv 2002.12620).

  mean (G_S - G_T)², G = h_1 h_2ᵀ / D [L, L] over valid pairs of positions, or G = h_1ᵀ h_2 / length
  [D, D] with invalid positions left out, of two layers h_1 and h_2 of each model; the same layer
  may be named twice. The first is a mean over all valid pairs of the batch, the second over examples.

  Args:
    over: 'positions' for [L, L], where the widths may differ, or 'features' for [D, D].
    mask: the batch key of the validity [B, L] of the positions; by default `<modality>/mask` of the
      first student tap, where the batch has it; '' for none.
    student: its two taps, [B, L, D].
    teacher: its two taps.
  """
  if over not in ('positions', 'features'):
    raise unknown('over of methods.gram_match', over, ('positions', 'features'))

  def loss(params, stats, s, t, batch, *, step, rng):
    differ = (-1,) if over == 'positions' else ()
    pairs = taps.stages(s, t, student, teacher, 'gram_match', rank=3, differ=differ)
    models = list(zip(*pairs, strict=True))  # (h_1, h_2) of the student, then of the teacher
    if len(pairs) != 2 or any(x.shape != y.shape for x, y in models):
      raise KdjaxError(
        f'gram_match needs two layers of one shape from each model, not {student!r} and {teacher!r}.'
      )
    valid = taps.valid_positions(batch, student[0], pairs[0][0], mask, 'gram_match')
    if over == 'positions':
      grams = [jnp.einsum('bld,bmd->blm', x, y, precision='highest') / x.shape[-1] for x, y in models]
      values, weights = jnp.subtract(*grams) ** 2, valid[:, :, None] * valid[:, None]
      return taps.mean_over_positions(values, weights), stats
    length = jnp.maximum(valid.sum(1), 1)[:, None, None]
    grams = [
      jnp.einsum('bld,ble->bde', x * valid[..., None], y, precision='highest') / length for x, y in models
    ]
    values = taps.mean_over_axes(jnp.subtract(*grams) ** 2)
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
