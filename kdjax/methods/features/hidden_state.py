"""Hidden states: match layers of any depth, by squared error or cosine (TinyBERT, 1909.10351)."""

from typing import Literal

import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn import adapters, losses, taps
from kdjax.options import Stages
from kdjax.types import Method

WEIGHT = 1.0  # TextBrewer, on each pair of layers, mean over positions and width

LAYERS = ('text/block1', 'text/block2')


def hidden_state(
  *,
  match: Literal['mse', 'cosine'] = 'mse',
  project: bool | None = None,
  mask: str | None = None,
  student: Stages = LAYERS,
  teacher: Stages = LAYERS,
) -> Method:
  """Hidden states of paired layers (TinyBERT, arXiv 1909.10351, equation 8; DistilBERT, 1910.01108).

  Σ over pairs of mean (P h_S - h_T)² over positions and width, or of the mean over positions of
  1 - cos(P h_S, h_T); P a learned linear layer. The mean runs over all valid positions of the
  batch, so a longer text counts for more, as in TextBrewer. With match='mse' and project=False
  it is plain feature mimicking, on maps and vectors too. Deviation from TinyBERT: P has a bias.

  Args:
    match: 'mse' or 'cosine'.
    project: True for a P on every pair, False for none, None for one where the widths differ.
    mask: the batch key of the validity [B, L] of the positions; by default `<modality>/mask` of the
      first student tap, where the batch has it; '' for none.
    student: its taps, [B, L, D], or [B, D] or [B, H, W, C], all of one length.
    teacher: as many taps, the layers that the student's are to match.
  """
  if match not in ('mse', 'cosine'):
    raise unknown('match of methods.hidden_state', match, ('mse', 'cosine'))
  align = adapters.Align(always=bool(project))
  differ = () if project is False else (-1,)
  first = student if isinstance(student, str) else student[0]

  def read(s, t):
    return taps.stages(s, t, student, teacher, 'hidden_state', rank=None, differ=differ)

  def init(rng, s, t, batch):
    return align.init(rng, read(s, t)).get('params', {}), {}

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = adapters.forward(align, params, read(s, t))
    if match == 'mse':
      values = [jnp.mean((a - b) ** 2, -1) for a, b in pairs]
    else:
      values = [1 - jnp.sum(losses.unit(a) * losses.unit(b), -1) for a, b in pairs]
    return taps.sum_of_layers(values, batch, first, mask, 'hidden_state'), stats

  return Method(init, loss)
