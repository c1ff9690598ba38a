"""Match the direction of both embeddings, MSE (CLIP-KD: Yang et al., 2307.12732)."""

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.nn.adapters import TowerProjection, forward
from kdjax.options import Taps
from kdjax.types import Method

WEIGHT = 2000.0  # CLIP-KD, for a mean over the width too


def clip_fd(
  *,
  student: Taps = ('image/embed', 'text/embed'),
  teacher: Taps = ('image/embed', 'text/embed'),
) -> Method:
  """Feature distillation of CLIP-KD (arXiv 2307.12732, "FD").

  Mean squared error of v_S / |v_S| to v_T / |v_T|, mean over the width, image plus text, mean over
  the examples. Where the widths differ, one learned linear layer a tower maps the student's
  embedding before it is normalised. Deviation: the paper sums over the width; CLIP-KD's code and
  its weight of 2000 take the mean. Their masked variant ("MFD") is the same loss with the embedding
  of a masked view, student=('image/masked_embed', 'text/embed').

  Args:
    student: its image and text embedding, [B, D] each, not normalised.
    teacher: its image and text embedding, [B, E] each.
  """

  def read(s, t):
    a = taps.towers(s, student, 'clip_fd', 'student')
    b = taps.towers(t, teacher, 'clip_fd', 'teacher')
    return TowerProjection(b[0].shape[-1]), a, b

  def init(rng, s, t, batch):
    module, a, _ = read(s, t)
    return module.init(rng, *a).get('params', {}), {}

  def loss(params, stats, s, t, batch, *, step, rng):
    module, a, b = read(s, t)
    pairs = zip(forward(module, params, *a), b, strict=True)
    values = losses.total(taps.mean_over_axes(jnp.square(losses.unit(x) - losses.unit(y))) for x, y in pairs)
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
