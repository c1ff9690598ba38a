"""Match the gradients of CLIP's own loss by the embeddings (CLIP-KD: Yang et al., 2307.12732)."""

import jax.numpy as jnp

from kdjax.nn import groups, losses, taps
from kdjax.nn.adapters import TowerProjection, forward
from kdjax.options import Taps
from kdjax.types import Method

# CLIP-KD's script has 1e8 at `released` temperature. At the right one the gradients are scale²
# larger, up to 100², and their squares up to 1e8.
WEIGHT = 1.0


def gradients(p, k, scale, mask, others=None):
  """d/dp and d/dk of the mean of InfoNCE over the anchors, `[B, D]` each.

  Args:
    p: anchors, `[B, D]`.
    k: what they are contrasted with, `[B, D]`; row i is the positive of anchor i.
    scale: of the inner products.
    mask: `[B]`, 0 for padding.
    others: `[B, B]`, what an anchor is contrasted with, as of `groups.contrasted`; None for all of `mask`.
  """
  others = mask if others is None else others
  share = jnp.exp(losses.log_affinity(p, k, scale, others)) - jnp.eye(len(p), dtype=p.dtype)
  share = share * mask[:, None] * scale / jnp.maximum(mask.sum(), 1)
  return jnp.matmul(share, k, precision='highest'), jnp.matmul(share.T, p, precision='highest')


def clip_gd(
  *,
  released: bool = False,
  student: Taps = ('image/embed', 'text/embed', 'logit_scale'),
  teacher: Taps = ('image/embed', 'text/embed', 'logit_scale'),
) -> Method:
  """Gradient distillation of CLIP-KD (arXiv 2307.12732, "GD").

  Mean squared error of the student's to the teacher's gradient of InfoNCE by the anchor and by
  what it is contrasted with, for image to text and text to image: four terms, mean over B · D.
  The gradients are written in closed form, so only their first derivative is taken; each model is
  at its own scale exp(logit_scale). Where the widths differ, one learned linear layer a tower maps
  the student's embedding before it is normalised. Pairs of the same `group` are no negatives of each
  other in either gradient, and padding takes no part.

  Args:
    released: divides by the scale where the formula multiplies by it, as CLIP-KD's code does,
      which takes the scale for the temperature; its weight is then 1e8.
    student: its image and text embedding, [B, D] each, and the log of its logit scale, [].
    teacher: the same of the teacher; D may differ.
  """

  def read(s, t):
    a = taps.towers(s, student, 'clip_gd', 'student', scalars=1)
    b = taps.towers(t, teacher, 'clip_gd', 'teacher', scalars=1)
    return TowerProjection(b[0].shape[-1]), a, b

  def init(rng, s, t, batch):
    module, a, _ = read(s, t)
    return module.init(rng, *a[:2]).get('params', {}), {}

  def loss(params, stats, s, t, batch, *, step, rng):
    module, (v, w, log_s), (vt, wt, log_t) = read(s, t)
    vs, ws = forward(module, params, v, w)
    mask = taps.example_mask(batch, v)
    others = groups.contrasted(batch, mask)

    def four(v, w, log_scale):
      v, w, scale = losses.unit(v), losses.unit(w), jnp.exp(-log_scale if released else log_scale)
      return *gradients(v, w, scale, mask, others), *gradients(w, v, scale, mask, others)

    pairs = zip(four(vs, ws, log_s), four(vt, wt, log_t), strict=True)
    values = losses.total(taps.mean_over_axes(jnp.square(x - y)) for x, y in pairs)
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(init, loss, relational=True)
