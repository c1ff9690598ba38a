"""As clip_crd, across student and teacher embeddings (CLIP-KD: Yang et al., 2307.12732)."""

import math

import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.nn.adapters import TowerProjection, forward
from kdjax.options import Taps
from kdjax.types import Method

WEIGHT = 1.0  # no table uses it: the scripts of CLIP-KD have 0; 1 is what they give clip_crd


def clip_cross_kd(
  *,
  released: bool = False,
  student: Taps = ('image/embed', 'text/embed'),
  teacher: Taps = ('image/embed', 'text/embed', 'logit_scale'),
) -> Method:
  """The cross term in the code of CLIP-KD (arXiv 2307.12732), which the paper does not name.

  Half of KL(p(v_T, w_T) || p(v_S, w_T)) plus KL(p(w_T, v_T) || p(w_S, v_T)), mean over the examples;
  p is the softmax of scale · cosine over the batch. The teacher has its own scale, the student's
  is learned: exp(p), from 1 / 0.07. Where the widths differ, one learned linear layer a tower maps
  the student's embedding before it is normalised. Padding takes no part; pairs of the same `group` do,
  since the target is the teacher's affinities for them.

  Args:
    released: the learned scale is p, without the exponential, as in CLIP-KD's code.
    student: its image and text embedding, [B, D] each.
    teacher: its image and text embedding, [B, E] each, and the log of its logit scale, [].
  """

  def read(s, t):
    a = taps.towers(s, student, 'clip_cross_kd', 'student')
    b = taps.towers(t, teacher, 'clip_cross_kd', 'teacher', scalars=1)
    return TowerProjection(b[0].shape[-1]), a, b

  def init(rng, s, t, batch):
    module, a, _ = read(s, t)
    scale = jnp.asarray(math.log(1 / 0.07), a[0].dtype)
    return {'projection': module.init(rng, *a).get('params', {}), 'logit_scale': scale}, {}

  def loss(params, stats, s, t, batch, *, step, rng):
    module, a, (vt, wt, log_scale) = read(s, t)
    vs, ws = (losses.unit(x) for x in forward(module, params['projection'], *a))
    vt, wt, scale_t = losses.unit(vt), losses.unit(wt), jnp.exp(log_scale)
    scale = params['logit_scale'] if released else jnp.exp(params['logit_scale'])
    mask = taps.example_mask(batch, vs)
    values = 0.5 * losses.total(
      losses.kl(losses.log_affinity(x, y, scale_t, mask), losses.log_affinity(z, y, scale, mask))
      for x, y, z in ((vt, wt, vs), (wt, vt, ws))
    )
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(init, loss, relational=True)
