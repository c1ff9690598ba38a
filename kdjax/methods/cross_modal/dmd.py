"""A learned graph of modalities: who teaches whom, and how much (DMD, Li et al., 2303.13802)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import adapters, losses, taps
from kdjax.options import NonNegative, Size, Tap, Taps
from kdjax.types import Method

WEIGHT = 0.05  # the authors' code, of either graph


class Graph(nn.Module):
  """The strength of each edge `[B, E]` before the softmax, from the two nodes that it joins."""

  dim: int

  @nn.compact
  def __call__(self, nodes, edges):
    dtype = nodes[0][1].dtype
    widths = {model: nn.Dense(self.dim, dtype=dtype, name=model) for model in sorted({n[0] for n in nodes})}
    scores = nn.Dense(self.dim, dtype=dtype, name='scores')
    z = [jnp.concatenate([scores(x), widths[model](e)], -1) for model, x, e in nodes]
    pairs = jnp.stack([jnp.concatenate([z[j], z[i]], -1) for j, i in edges], 1)
    return nn.Dense(1, dtype=dtype, name='edge')(pairs)[..., 0]


def dmd(
  *,
  alpha: NonNegative = 0.125,
  prior: tuple[NonNegative, ...] | None = None,
  regularise: NonNegative = 10.0,
  apart: NonNegative = 0.0,
  dim: Size = 64,
  logits: Tap = 'class_logits',
  embed: Tap = 'embed',
  student: Taps = ('image', 'text'),
  teacher: tuple[Tap, ...] = (),
) -> Method:
  """Graph distillation of Decoupled Multimodal Distilling (arXiv 2303.13802).

  Σ over edges i -> j of (w + prior) · |z_j - z_i|_1, mean over the examples, + `regularise` ·
  Σ (mean of w - prior)². Nodes are the modalities of the student, which all learn, and those of
  the teacher, which only teach; z are a node's class scores, and w = softmax over all edges of
  `alpha` times a learned function of the two nodes' scores and embeddings. No gradient reaches i
  through |z_j - z_i|. The paper has two graphs: give each its own entry and its own taps.

  The prior and its regulariser are of the authors' code, not of the paper. Their prior for
  (language, vision, audio) is softmax([0, 0, 1, 0, 1, 0] / 0.25) for the homogeneous graph and
  softmax([0, 0, 1, 0, 1, 1] / 0.25) for the heterogeneous. Their heterogeneous graph also keeps
  embeddings apart: apart = 10 adds 10 · (w + prior) · max(0, cos(e_j, e_i)) of each example, where
  the code multiplies means over the batch. It counts once a batch; padding takes no part in it.

  Args:
    alpha: the factor of the edges before the softmax.
    prior: of each edge, ordered by the modality that learns, then by the one that teaches; by
      default all edges alike.
    regularise: the factor of the distance of the edges from the prior.
    apart: the factor of the cosines of the embeddings.
    dim: the width of what the edges are computed from.
    logits: the scores of the modality m are the tap `<m>/<logits>`, [B, C].
    embed: its embedding is the tap `<m>/<embed>`, [B, D], of one width within a model, and in both with
      `apart`.
    student: the modalities of the student.
    teacher: the modalities of the teacher.
  """
  edges = [(j, i) for j in range(len(student)) for i in range(len(student) + len(teacher)) if i != j]
  n_prior = len(edges) if prior is None else len(prior)
  if not edges or n_prior != len(edges):
    raise KdjaxError(
      f'dmd has {len(edges)} edges for the modalities {list(student)} of the student and '
      f'{list(teacher)} of the teacher'
      + (f', and the prior {n_prior} entries.' if edges else ': name at least one that teaches another.')
    )

  def nodes(s, t):
    detached = jax.lax.stop_gradient(dict(t))
    rows = [
      (model, *(taps.tap(outputs, f'{m}/{name}', 'dmd', model) for name in (logits, embed)))
      for model, outputs, modalities in (('student', s, student), ('teacher', detached, teacher))
      for m in modalities
    ]
    scores = {z.shape for _, z, _ in rows}
    widths = {('' if apart else model, e.shape) for model, _, e in rows}
    models = {model for model, _ in widths}
    flat = all(z.ndim == e.ndim == 2 for _, z, e in rows)
    if not flat or len(scores) > 1 or len(widths) > len(models):
      shapes = ', '.join(f'{list(z.shape)} with {list(e.shape)}' for _, z, e in rows)
      raise KdjaxError(
        'dmd needs scores [B, C] of one shape from every modality, and embeddings [B, D] of one width '
        f'within a model, with apart in both; it was given {shapes}.'
      )
    return rows

  def init(rng, s, t, batch):
    return Graph(dim).init(rng, nodes(s, t), edges)['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    all_nodes = nodes(s, t)
    masked = [(model, losses.zero_masked(z), e) for model, z, e in all_nodes]
    w = jax.nn.softmax(alpha * adapters.forward(Graph(dim), params, masked, edges))
    p = jnp.asarray(prior or [1 / len(edges)] * len(edges), w.dtype)
    values = jnp.zeros((), w.dtype)
    for k, (j, i) in enumerate(edges):
      (_, z, e), (target, other) = all_nodes[j], jax.lax.stop_gradient(all_nodes[i][1:])
      distance = jnp.sum(jnp.abs(jnp.subtract(*losses.both_masked(z, target))), -1)
      if apart:
        distance += apart * jnp.maximum(jnp.sum(losses.unit(e) * losses.unit(other), -1), 0)
      values += (w[:, k] + p[k]) * distance
    total, count = taps.as_batch_term(taps.mean_over_examples(values, batch))
    m = taps.example_mask(batch, w)[:, None]
    mean = jnp.sum(w * m, 0) / jnp.maximum(m.sum(), 1)
    total += regularise * jnp.sum(jnp.square(mean - p) * (m.sum() > 0))
    return (total, count), stats

  return Method(init, loss, relational=True)
