"""As clip_fd, with the student's image partly masked (CLIP-KD: Yang et al., 2307.12732)."""

import jax.numpy as jnp

from kdjax import losses, taps
from kdjax.adapters import TowerProjection
from kdjax.types import Method

WEIGHT = 2000.0  # CLIP-KD, with 75 % of the student's patches masked, for a mean over the width too


def clip_mfd(
  *,
  student: tuple[str, ...] = ('image/masked_embed', 'text/embed'),
  teacher: tuple[str, ...] = ('image/embed', 'text/embed'),
) -> Method:
  """Masked feature distillation of CLIP-KD (arXiv 2307.12732, "MFD").

  Mean squared error of v'_S / |v'_S| to v_T / |v_T|, mean over the width, image plus text, mean over
  the examples; v'_S is the student's embedding of the image with most patches masked, v_T the
  teacher's of the whole image. The student masks (the paper takes away 75 %) and gives that
  embedding as a tap of its own. Projection and deviation as in clip_fd.

  Args:
    student: its embedding of the masked image and of the text, [B, D] each, not normalised.
    teacher: its image and text embedding, [B, E] each.
  """

  def read(s, t):
    a = taps.towers(s, student, 'clip_mfd', 'student')
    b = taps.towers(t, teacher, 'clip_mfd', 'teacher')
    return TowerProjection(b[0].shape[-1]), a, b

  def init(rng, s, t, batch):
    module, a, _ = read(s, t)
    return module.init(rng, *a).get('params', {}), {}

  def loss(params, stats, s, t, batch, *, step, rng):
    module, a, b = read(s, t)
    pairs = zip(module.apply({'params': params}, *a), b, strict=True)
    values = sum(taps.mean_over_axes(jnp.square(losses.unit(x) - losses.unit(y))) for x, y in pairs)
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
