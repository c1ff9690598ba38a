"""Features of several teachers, rotated and scaled until all values vary alike (PHI-S, 2410.01680)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.nn import losses, taps
from kdjax.nn.adapters import Heads, forward
from kdjax.options import Count, NonNegative, Size, Tap, Taps
from kdjax.types import Method

WEIGHT = 1.0  # the authors' only loss


def paley(q: int) -> np.ndarray:
  """The matrix [q, q] of a prime: 1 where the difference of two places is a square, -1 where it is none."""
  squares = {i * i % q for i in range(1, q)}
  signs = np.array([0] + [1 if i in squares else -1 for i in range(1, q)])
  return signs[np.subtract.outer(np.arange(q), np.arange(q)) % q]


def prime(n: int) -> bool:
  return n > 1 and all(n % i for i in range(2, math.isqrt(n) + 1))


def small_hadamard(n: int) -> np.ndarray | None:
  """A Hadamard matrix of n rows by Paley's constructions, None where neither makes one."""
  if n in (1, 2):
    return np.array([[1, 1], [1, -1]])[:n, :n]
  if n % 4 == 0 and prime(n - 1):
    bordered = np.block([[np.zeros((1, 1)), np.ones((1, n - 1))], [-np.ones((n - 1, 1)), paley(n - 1)]])
    return bordered + np.eye(n)
  q = n // 2 - 1
  if n % 4 == 0 and q % 4 == 1 and prime(q):
    bordered = np.block([[np.zeros((1, 1)), np.ones((1, q))], [np.ones((q, 1)), paley(q)]])
    return np.kron(bordered, [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1), [[1, -1], [-1, -1]])
  return None


def rotation(n: int) -> np.ndarray:
  """An orthogonal matrix [n, n] whose entries are ±1 / √n, where a construction is known.

  Else that of Hartley's transform, whose squared entries differ, up to 2 / n, and average to 1 / n.
  """
  for power in range(n.bit_length()):
    part = small_hadamard(n >> power) if n % (1 << power) == 0 else None
    if part is not None:
      for _ in range(power):
        part = np.kron([[1, 1], [1, -1]], part)
      return part / math.sqrt(n)
  angles = 2 * math.pi * np.outer(np.arange(n), np.arange(n)) / n
  return (np.cos(angles) + np.sin(angles)) / math.sqrt(n)


def balancing(covariance):
  """H Uᵀ / φ, [D, D]: U the eigenvectors of a covariance, φ² the mean of its eigenvalues."""
  n = len(covariance)
  scale = jnp.sqrt(jnp.maximum(jnp.trace(covariance) / n, 0))
  top = losses.largest(covariance).reshape(())
  _, vectors = jnp.linalg.eigh(covariance / top)
  hadamard = jnp.asarray(rotation(n), covariance.dtype)
  return jnp.matmul(hadamard, vectors.T, precision='highest') / jnp.where(scale > 0, scale, 1)


def phi_s(
  *,
  mse: NonNegative = 1.0,
  cosine: NonNegative = 0.0,
  smooth_l1: NonNegative = 0.0,
  steps: Count = 100,
  hidden: Size = 256,
  student: Tap = 'embed',
  teachers: Taps = ('embed',),
) -> Method:
  """PHI standardisation of several teachers' features (arXiv 2410.01680).

  Σ over the teachers of mse · |h(x) - y|² / D + cosine · (1 - cos) + smooth_l1 · (mean of Huber's loss over
  the values), y = H Uᵀ (z - μ) / φ and h a head of the student for each teacher: U the eigenvectors of the
  covariance of its features z, φ² the mean eigenvalue, H a normalised Hadamard matrix. All values of y vary
  by 1, whatever the spectrum, and nothing is distorted: it is a rotation and one scale. Mean over the
  examples and positions. The mean and the covariance are those of the first batch and of `steps` steps; after
  that they stay. Checked against NVlabs/RADIO@2fe5f72, examples/common/phi_s.py and hadamard.py, where they
  are computed before the training. Deviations: the covariance divides by n, not n - 1; for a width with no
  Hadamard matrix by Sylvester's and Paley's constructions H is Hartley's, where the code draws one. Patches
  have an entry of their own.

  Args:
    mse: the factor of the squared error.
    cosine: the factor of the cosine loss.
    smooth_l1: the factor of Huber's loss.
    steps: over which the moments are averaged.
    hidden: width of the hidden layer of a head.
    student: its tap, [B, ..., D]: a vector an example, tokens, or a map.
    teachers: a tap of each, `<teacher>/<tap>` of the members of an `ensemble`, of as many positions.
  """

  def pairs(s, t):
    both = [taps.pair(s, t, student, name, 'phi_s', same_shape=False) for name in teachers]
    return both[0][0], [z for _, z in both]

  def moments(z, mask):
    weights = jnp.broadcast_to(mask.reshape(-1, *[1] * (z.ndim - 2)), z.shape[:-1]).reshape(-1, 1)
    z, n = z.reshape(-1, z.shape[-1]), jnp.maximum(weights.sum(), 1)
    return {
      'mean': jnp.sum(z * weights, 0) / n,
      'product': jnp.matmul((z * weights).T, z, precision='highest') / n,
    }

  def matrix(stats):
    return balancing(stats['product'] - jnp.outer(stats['mean'], stats['mean']))

  def init(rng, s, t, batch):
    x, targets = pairs(s, t)
    params = Heads(tuple(z.shape[-1] for z in targets), hidden).init(rng, x)['params']
    first = [moments(z, taps.example_mask(batch, z)) for z in targets]
    stats = {f'teacher{i}': m | {'matrix': matrix(m)} for i, m in enumerate(first)}
    return params, stats | {'seen': jnp.ones((), x.dtype)}

  def loss(params, stats, s, t, batch, *, step, rng):
    x, targets = pairs(s, t)
    mask, seen = taps.example_mask(batch, x), stats['seen']
    present = mask.sum() > 0
    share = jnp.where((seen <= steps) & present, 1 / (seen + 1), 0)
    changes = seen <= steps + 1  # the matrix, once more after the moments
    values, new = jnp.zeros(len(x), x.dtype), {'seen': seen + (changes & present)}
    projected = forward(Heads(tuple(z.shape[-1] for z in targets), hidden), params, x)
    for i, (y, z) in enumerate(zip(projected, targets, strict=True)):
      old, now = stats[f'teacher{i}'], moments(z, mask)
      # That of the moments before this step, which every part of a batch and every device has alike.
      turn = jax.lax.cond(changes, matrix, lambda stats: stats['matrix'], old)
      z = jnp.einsum('...d,ed->...e', z - old['mean'], turn, precision='highest')
      each = mse * jnp.square(y - z).mean(-1) + smooth_l1 * losses.smooth_l1(y - z).mean(-1)
      each += cosine * (1 - jnp.sum(losses.unit(y) * losses.unit(z), -1))
      values += taps.mean_over_axes(each)
      new[f'teacher{i}'] = {k: old[k] + share * (now[k] - old[k]) for k in now} | {'matrix': turn}
    return taps.mean_over_examples(values, batch), new

  return Method(init, loss)
