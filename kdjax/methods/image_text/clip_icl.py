"""Contrast the student's images with the teacher's texts and back (Yang et al., 2307.12732)."""

import math

import jax.numpy as jnp

from kdjax.nn import groups, losses, taps
from kdjax.nn.adapters import TowerProjection, forward
from kdjax.options import Taps
from kdjax.types import Method

WEIGHT = 1.0  # CLIP-KD


def clip_icl(
  *,
  released: bool = False,
  student: Taps = ('image/embed', 'text/embed'),
  teacher: Taps = ('image/embed', 'text/embed'),
) -> Method:
  """Interactive contrastive learning of CLIP-KD (arXiv 2307.12732, "ICL").

  Half of InfoNCE(c · v_S·w_T) plus InfoNCE(c · w_S·v_T), with v the image's and w the text's
  embedding of length 1; the negatives are the other pairs of the batch, those of the same `group`
  excepted. c = exp(p) is learned and starts at 1 / 0.07. Where the widths differ, one learned linear
  layer a tower maps the student's embedding before it is normalised. Padding takes no part.

  Args:
    released: c = p, without the exponential, so that it starts at 2.66, as in CLIP-KD's code and
      the tables made with it.
    student: its image and text embedding, [B, D] each.
    teacher: its image and text embedding, [B, E] each.
  """

  def read(s, t):
    a = taps.towers(s, student, 'clip_icl', 'student')
    b = taps.towers(t, teacher, 'clip_icl', 'teacher')
    return TowerProjection(b[0].shape[-1]), a, b

  def init(rng, s, t, batch):
    module, a, _ = read(s, t)
    scale = jnp.asarray(math.log(1 / 0.07), a[0].dtype)
    return {'projection': module.init(rng, *a).get('params', {}), 'logit_scale': scale}, {}

  def loss(params, stats, s, t, batch, *, step, rng):
    module, a, (vt, wt) = read(s, t)
    vs, ws = forward(module, params['projection'], *a)
    scale = params['logit_scale'] if released else jnp.exp(params['logit_scale'])
    mask = groups.contrasted(batch, taps.example_mask(batch, vs))
    crossed = (vs, wt), (ws, vt)
    rows = [losses.log_affinity(losses.unit(x), losses.unit(y), scale, mask) for x, y in crossed]
    values = -0.5 * losses.total(jnp.diagonal(x) for x in rows)
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(init, loss, relational=True)
