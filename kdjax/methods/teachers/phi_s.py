"""Several teachers' features, rotated so that all values vary alike (PHI-S, Ranzinger et al., 2410.01680)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.nn.adapters import Heads, forward
from kdjax.nn.hadamard import even_rotation
from kdjax.options import Count, Size, Tap, Taps
from kdjax.types import Method

WEIGHT = 1.0  # the authors' only loss


def phi_s(
  *, estimate: Count = 100, hidden: Size = 256, student: Tap = 'embed', teachers: Taps = ('embed',)
) -> Method:
  """Multi-teacher distillation with PHI standardisation (PHI-S, arXiv 2410.01680, section 3).

  For each teacher the mean square of a projection of the student's feature less H Uᵀ (x - μ) / √(mean λ),
  mean over the values and the examples, summed over the teachers. U Λ Uᵀ is the covariance of the teacher's
  feature and H an orthogonal matrix of entries of one size: every value then has variance 1, by one factor
  for all, so that no teacher and no value of it outweighs others, and errors stay in proportion. μ and the
  covariance are of the first batch, and from step `estimate` on of all steps before it. Checked against
  NVlabs/RADIO@2fe5f72, examples/common/phi_s.py. Deviations: the authors take them of a run before the
  training; where Sylvester and Paley know no Hadamard matrix, H is Hartley's, whose values vary nearly
  alike; a head is an MLP of the last feature. On accelerators, where seeds are trained together, each step
  computes the eigenvectors.

  Args:
    estimate: steps of which mean and covariance are taken.
    hidden: width of the hidden layer of a projection.
    student: its tap, [B, ..., D]: a vector an example, or tokens.
    teachers: a tap of each, '<teacher>/<tap>' of the members of an `ensemble`, of as many axes.
  """

  def pairs(s, t):
    both = [taps.pair(s, t, student, name, 'phi_s', same_shape=False) for name in teachers]
    return both[0][0], [p for _, p in both]

  def heads(targets):
    return Heads(tuple(p.shape[-1] for p in targets), hidden)

  def init(rng, s, t, batch):
    q, targets = pairs(s, t)
    mask = taps.example_mask(batch, q)
    return heads(targets).init(rng, q)['params'], {
      f'teacher{i}': begun(p, mask) for i, p in enumerate(targets)
    }

  def loss(params, stats, s, t, batch, *, step, rng):
    q, targets = pairs(s, t)
    mask, ready = taps.example_mask(batch, q), step >= estimate
    values, new = jnp.zeros_like(mask), {}
    for i, (y, p) in enumerate(zip(forward(heads(targets), params, q), targets, strict=True)):
      kept = stats[f'teacher{i}']
      kept = jax.lax.cond(ready & (kept['ready'] == 0), with_map, lambda k: k, kept)
      target = jnp.matmul(p.astype(jnp.float32) - kept['mean'], kept['map'].T, precision='highest')
      values += taps.mean_over_axes((y - target.astype(y.dtype)) ** 2)
      counted = added(kept, p.astype(jnp.float32), mask)
      new[f'teacher{i}'] = jax.tree.map(lambda a, b: jnp.where(ready, a, b), kept, counted)
    return taps.mean_over_examples(values, batch), new

  return Method(init, loss)


def begun(p, mask):
  """Statistics of no feature yet, with the map of a first batch.

  Sums are of the distance from `shift`, so that they keep their digits.
  """
  width, shift = p.shape[-1], p.reshape(-1, p.shape[-1]).mean(0).astype(jnp.float32)
  square = jnp.zeros((width, width), jnp.float32)
  zeros, zero = jnp.zeros(width, jnp.float32), jnp.float32(0)
  sums = {'count': zero, 'sum': zeros, 'outer': square, 'shift': shift}
  first = with_map(added(sums, p.astype(jnp.float32), mask))
  return jax.lax.stop_gradient(sums | {'mean': first['mean'], 'map': first['map'], 'ready': zero})


def added(kept, p, mask):
  """The statistics with those of a batch [B, ..., E]; examples of mask 0 add nothing."""
  weights = jnp.broadcast_to(mask.reshape(-1, *[1] * (p.ndim - 1)), (*p.shape[:-1], 1)).reshape(-1, 1)
  x = jnp.where(weights > 0, p.reshape(-1, p.shape[-1]) - kept['shift'], 0) * weights
  return kept | {
    'count': kept['count'] + weights.sum().astype(jnp.float32),
    'sum': kept['sum'] + x.sum(0),
    'outer': kept['outer'] + jnp.matmul(x.T, x, precision='highest'),
  }


def with_map(kept):
  """The statistics with the mean and the map [E, E] that they give."""
  count = jnp.maximum(kept['count'], 2)
  mean = kept['sum'] / count
  covariance = (kept['outer'] - count * jnp.outer(mean, mean)) / (count - 1)
  top = losses.largest(covariance)
  eigenvalues, vectors = jnp.linalg.eigh(covariance / top)
  variance = jnp.maximum(eigenvalues, 0).mean() * top[0, 0]
  size = jnp.sqrt(jnp.where(variance > 1e-12, variance, 1))  # 1 for a feature that never changes
  rotation = jnp.asarray(even_rotation(len(mean)), jnp.float32)
  mapped = jnp.matmul(rotation, vectors.T, precision='highest') / size
  return kept | {'mean': kept['shift'] + mean, 'map': mapped, 'ready': jnp.float32(1)}
