"""Features of several teachers in one student, of which the best learnt are dropped (UNIC, 2408.05088)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.nn.adapters import Heads, forward
from kdjax.options import Decay, NonNegative, Share, Size, Tap, Taps
from kdjax.types import Method

WEIGHT = 1.0  # the authors' only loss


def unic(
  *,
  cosine: NonNegative = 0.5,
  smooth_l1: NonNegative = 0.5,
  drop: Share = 0.5,
  momentum: Decay = 0.99,
  hidden: Size = 256,
  student: Tap = 'embed',
  teachers: Taps = ('embed',),
) -> Method:
  """Multi-teacher distillation of features with teacher dropping (arXiv 2408.05088, sections 3.1 and 3.3).

  For each teacher cosine · (1 - cos) + smooth_l1 · (mean of Huber's loss over the values) of a projection of
  the student's feature and the teacher's, whose values are standardised by running mean and deviation. Of
  each example the teacher with the largest loss counts, and each other one unless it is dropped; the sum is
  divided by how many counted, over all examples. Checked against naver/unic@698a382, modeling/losses.py and
  teacher_dropping.py. Deviations: which teachers are dropped is drawn from the example's id, so that it does
  not depend on the batch; a head is an MLP of the last feature, without the ladder of earlier layers.

  Args:
    cosine: the factor of the cosine loss.
    smooth_l1: the factor of Huber's loss.
    drop: the probability that a teacher but the worst is dropped.
    momentum: of the running mean and second moment of a teacher's values.
    hidden: width of the hidden layer of a head.
    student: its tap, [B, ..., D]: a vector an example, or tokens.
    teachers: a tap of each, `<teacher>/<tap>` of the members of an `ensemble`, of as many axes.
  """

  def pairs(s, t):
    names = [taps.pair(s, t, student, name, 'unic', same_shape=False) for name in teachers]
    return names[0][0], [p for _, p in names]

  def moments(p, mask):
    weights = jnp.broadcast_to(mask.reshape(-1, *[1] * (p.ndim - 1)), (*p.shape[:-1], 1))
    n = jnp.maximum(weights.sum(), 1)
    axes = tuple(range(p.ndim - 1))
    return {'mean': jnp.sum(p * weights, axes) / n, 'square': jnp.sum(p * p * weights, axes) / n}

  def init(rng, s, t, batch):
    q, targets = pairs(s, t)
    params = Heads(tuple(p.shape[-1] for p in targets), hidden).init(rng, q)['params']
    return params, {f'teacher{i}': moments(p, taps.example_mask(batch, p)) for i, p in enumerate(targets)}

  def loss(params, stats, s, t, batch, *, step, rng):
    q, targets = pairs(s, t)
    mask = taps.example_mask(batch, q)
    projected, each, new = forward(Heads(tuple(p.shape[-1] for p in targets), hidden), params, q), [], {}
    for i, (y, p) in enumerate(zip(projected, targets, strict=True)):
      old, now = stats[f'teacher{i}'], moments(p, mask)
      deviation = jnp.sqrt(jnp.maximum(old['square'] - old['mean'] ** 2, 1e-6))
      p = (p - old['mean']) / deviation
      similarity = jnp.sum(losses.unit(y) * losses.unit(p), -1)
      huber = losses.smooth_l1(y - p).mean(-1)
      each.append(taps.mean_over_axes(cosine * (1 - similarity) + smooth_l1 * huber))
      present = mask.sum() > 0
      new[f'teacher{i}'] = {
        k: jnp.where(present, momentum * old[k] + (1 - momentum) * now[k], old[k]) for k in old
      }
    values = jnp.stack(each)  # [teachers, B]
    counts = kept(jax.lax.stop_gradient(values), drop, batch.get('id', jnp.arange(len(q))), rng) * mask
    return (jnp.sum(jnp.where(counts > 0, values, 0) * counts), jnp.sum(counts)), new

  return Method(init, loss)


def kept(values, drop, ids, rng):
  """Which teachers count for each example, [teachers, B] of 0 and 1: the worst learnt, and some others."""
  keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(ids)
  draws = jax.vmap(lambda key: jax.random.uniform(key, (len(values),)))(keys).T
  worst = jnp.arange(len(values))[:, None] == jnp.argmax(values, 0)[None]
  return (worst | (draws >= drop)).astype(values.dtype)
