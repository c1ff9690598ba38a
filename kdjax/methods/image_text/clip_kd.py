"""The sum of clip_fd, clip_icl and clip_crd, one projection (CLIP-KD: Yang et al., 2307.12732)."""

import math

import jax.numpy as jnp

from kdjax.nn import groups, losses, taps
from kdjax.nn.adapters import TowerProjection, forward
from kdjax.options import NonNegative, Taps
from kdjax.types import Method

WEIGHT = 1.0  # CLIP-KD, with the three factors below


def clip_kd(
  *,
  fd: NonNegative = 2000.0,
  icl: NonNegative = 1.0,
  crd: NonNegative = 1.0,
  released: bool = False,
  student: Taps = ('image/embed', 'text/embed', 'logit_scale'),
  teacher: Taps = ('image/embed', 'text/embed', 'logit_scale'),
) -> Method:
  """What CLIP-KD's tables call CLIP-KD (arXiv 2307.12732): `fd` · FD + `icl` · ICL + `crd` · CRD.

  The terms are those of clip_fd, clip_icl and clip_crd. Three methods side by side learn two
  projections where the widths differ; here FD and ICL share one, as in the released code. CRD
  takes the student's embeddings as they are. Pairs of the same `group` are no negatives of each other
  in ICL; in CRD they stay, since its target is the teacher's affinities for them.

  Args:
    fd: the factor of the feature distillation.
    icl: the factor of the interactive contrastive learning.
    crd: the factor of the contrastive relational distillation.
    released: the scale of ICL without the exponential, as in the tables.
    student: its image and text embedding, [B, D] each, and the log of its logit scale, [].
    teacher: the same of the teacher; D may differ.
  """

  def read(s, t):
    a = taps.towers(s, student, 'clip_kd', 'student', scalars=1)
    b = taps.towers(t, teacher, 'clip_kd', 'teacher', scalars=1)
    return TowerProjection(b[0].shape[-1]), a, b

  def init(rng, s, t, batch):
    module, a, _ = read(s, t)
    scale = jnp.asarray(math.log(1 / 0.07), a[0].dtype)
    return {'projection': module.init(rng, *a[:2]).get('params', {}), 'logit_scale': scale}, {}

  def loss(params, stats, s, t, batch, *, step, rng):
    module, (*a, log_s), (*b, log_t) = read(s, t)
    mask = taps.example_mask(batch, a[0])
    others = groups.contrasted(batch, mask)
    v, w = map(losses.unit, a)
    vs, ws = map(losses.unit, forward(module, params['projection'], *a))
    vt, wt = map(losses.unit, b)
    cross = params['logit_scale'] if released else jnp.exp(params['logit_scale'])
    values = fd * sum(taps.mean_over_axes(jnp.square(x - y)) for x, y in ((vs, vt), (ws, wt)))
    for x, y in ((vs, wt), (ws, vt)):
      values -= 0.5 * icl * jnp.diagonal(losses.log_affinity(x, y, cross, others))
    scale_s, scale_t = jnp.exp(log_s), jnp.exp(log_t)
    for p, q in (((vt, wt), (v, w)), ((wt, vt), (w, v))):
      log_p, log_q = losses.log_affinity(*p, scale_t, mask), losses.log_affinity(*q, scale_s, mask)
      values += 0.5 * crd * losses.kl(log_p, log_q)
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(init, loss, relational=True)
