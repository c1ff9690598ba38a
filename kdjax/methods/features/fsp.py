"""Flow of the solution: Gram matrices between consecutive stages (Yim et al., CVPR 2017)."""

import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import adapters, losses, taps
from kdjax.options import Stages
from kdjax.types import Method

WEIGHT = 50.0  # RepDistiller's script, where it acts in the first 30 epochs alone: set `stop`

STAGES = ('image/stage1', 'image/stage2', 'image/stage3')


def fsp_matrix(bottom, top):
  """Mean over positions of top_i · bottom_j, [B, C_top, C_bottom], the larger map averaged down."""
  bottom, top = losses.to_one_size(bottom, top)
  return jnp.einsum('bhwi,bhwj->bij', top, bottom, precision='highest') / (top.shape[1] * top.shape[2])


def fsp(*, student: Stages = STAGES, teacher: Stages = STAGES) -> Method:
  """The flow-of-solution-procedure matrices of Yim et al. (CVPR 2017, equations 1 and 2).

  Σ over consecutive stages of mean (F_S - F_T)², F[i, j] = mean over positions of top_i · bottom_j.
  Deviations from the paper: the mean over the entries of F for their sum, as in RepDistiller; and
  where the widths differ, which the paper and RepDistiller leave out, a learned 1×1 convolution
  brings the student's stage to the teacher's width.

  Args:
    student: its taps, two or more maps [B, H, W, C] from the bottom up.
    teacher: as many taps.
  """

  def read(s, t):
    pairs = taps.stages(s, t, student, teacher, 'fsp')
    if len(pairs) < 2:
      raise KdjaxError(f'fsp relates consecutive stages: give two taps or more, not {student!r}.')
    return pairs

  def init(rng, s, t, batch):
    return adapters.Align().init(rng, read(s, t)).get('params', {}), {}

  def loss(params, stats, s, t, batch, *, step, rng):
    aligned = adapters.forward(adapters.Align(), params, read(s, t))
    values = losses.total(
      taps.mean_over_axes((fsp_matrix(a, a_top) - fsp_matrix(b, b_top)) ** 2)
      for (a, b), (a_top, b_top) in zip(aligned, aligned[1:], strict=False)
    )
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
