"""Class tokens and patches of several teachers in one student (AM-RADIO, Ranzinger et al., 2312.06709)."""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Len

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.nn.adapters import forward
from kdjax.options import NonNegative, NoOrSize, Size, Tap, Taps
from kdjax.types import Method

WEIGHT = 1.0  # the paper's, mean over the positions and values, without labels
Firsts = Annotated[tuple[NoOrSize, ...], Len(1)]


class Heads(nn.Module):
  """Of each teacher an MLP for the summary and one for the patches: a layer, a norm, GELU and a layer."""

  widths: tuple[tuple[int, int], ...]
  hidden: int

  @nn.compact
  def __call__(self, summary, patches):
    def head(x, width, name):
      x = nn.LayerNorm(dtype=x.dtype, name=f'{name}_norm')(
        nn.Dense(self.hidden, dtype=x.dtype, name=f'{name}_in')(x)
      )
      return nn.Dense(width, dtype=x.dtype, name=f'{name}_out')(nn.gelu(x))

    return [
      (head(summary, a, f'summary{i}'), head(patches, b, f'patches{i}'))
      for i, (a, b) in enumerate(self.widths)
    ]


def am_radio(
  *,
  cosine: NonNegative = 0.9,
  smooth_l1: NonNegative = 0.1,
  patches: NonNegative = 1.0,
  hidden: Size = 256,
  student: Tap = 'embed',
  teachers: Taps = ('embed',),
  student_patches: Tap = 'image/stage3',
  teacher_patches: Taps = ('image/stage3',),
  student_first: NoOrSize = 0,
  teacher_first: Firsts = (0,),
) -> Method:
  """Agglomeration of vision models (arXiv 2312.06709), as they are, with no labels.

  Σ over the teachers of 1 - cos(h(x), z) of a summary, such as the class token, + patches · the mean over the
  positions of cosine · (1 - cos) + smooth_l1 · (mean of Huber's loss over the values) of the patches, h a
  head of the student for each teacher and each of the two. Of two grids of patches the larger is averaged to
  the other's size. Mean over the examples. By the paper's formula: NVlabs/RADIO@09fb14b has heads of this
  kind, radio/adaptor_mlp.py, and no training code that this could be checked against. A teacher with larger
  values counts for more in Huber's loss: `phi_s` balances them, and `unic` standardises each value and drops
  the teachers that are learnt best.

  Args:
    cosine: the factor of the cosine loss of patches.
    smooth_l1: the factor of their Huber's loss.
    patches: the factor of both beside the summary's.
    hidden: width of the hidden layer of a head.
    student: its summary, [B, D].
    teachers: a summary of each, `<teacher>/<tap>` of the members of an `ensemble`.
    student_patches: its patches, [B, L, D] or a map [B, H, W, D].
    teacher_patches: those of each teacher, [B, L, E] or [B, H, W, E].
    student_first: tokens of the student before its patches, such as a class token and registers.
    teacher_first: of each teacher, or one number for all.
  """
  if len(teachers) != len(teacher_patches) or len(teacher_first) not in (1, len(teachers)):
    raise KdjaxError(
      f'am_radio has {len(teachers)} teachers, {len(teacher_patches)} teacher_patches and '
      f'{len(teacher_first)} teacher_first: give as many of each.'
    )
  firsts = teacher_first * len(teachers) if len(teacher_first) == 1 else teacher_first

  def read(s, t):
    """The student's summary and map, and those of each teacher."""
    summaries = [taps.pair(s, t, student, name, 'am_radio', same_shape=False) for name in teachers]
    maps = [taps.pair(s, t, student_patches, name, 'am_radio', same_shape=False) for name in teacher_patches]
    own = taps.patch_map(maps[0][0], student_first, student_patches, 'am_radio')
    theirs = [
      taps.patch_map(x, first, name, 'am_radio')
      for (_, x), first, name in zip(maps, firsts, teacher_patches, strict=True)
    ]
    return summaries[0][0], own, [x for _, x in summaries], theirs

  def heads(summaries, maps):
    return Heads(tuple((a.shape[-1], b.shape[-1]) for a, b in zip(summaries, maps, strict=True)), hidden)

  def init(rng, s, t, batch):
    summary, own, summaries, maps = read(s, t)
    return heads(summaries, maps).init(rng, summary, own)['params'], {}

  def distance(a, b):
    return 1 - jnp.sum(losses.unit(a) * losses.unit(b), -1)

  def loss(params, stats, s, t, batch, *, step, rng):
    summary, own, summaries, maps = read(s, t)
    values = jnp.zeros(len(summary), summary.dtype)
    projected = forward(heads(summaries, maps), params, summary, own)
    for (y, x), z, target in zip(projected, summaries, maps, strict=True):
      values += distance(y, z)
      x, target = losses.to_one_size(x, target)
      each = cosine * distance(x, target) + smooth_l1 * losses.smooth_l1(x - target).mean(-1)
      values += patches * taps.mean_over_axes(each)
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
