"""Streamlined: class scores, and whitened differences of their directions (Jeong et al., CVPR 2026, SKD)."""

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Positive, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # as much as the labels, as in the authors' code, which has 0.5 on each


def skd(
  *,
  temperature: Temperature = 4.0,
  tikhonov: Positive = 0.1,
  direction: NonNegative = 1.0,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Streamlined knowledge distillation (Jeong, Lee & Choi, CVPR 2026), as the paper has it.

  KL(softmax(teacher / T) || softmax(student / T)), with no T², + direction · sqrt(D_i Σ⁻¹ D_iᵀ), means
  over the examples. D = S - T is the difference of the B × B cosines of the logits of the batch's
  examples, D_i its rows, and Σ their covariance, divided by B - 1, plus `tikhonov` on the diagonal; the
  gradient goes through Σ too. It counts once a batch, and padding takes no part in it. Of D_i = 0 the
  gradient is 0.

  Deviations from the authors' code, as in torchdistill's 'paper' mode: the code multiplies the KL by T²
  and keeps the half of the examples that the teacher is least sure of, divides the cosines by the number
  of classes, and multiplies the second term by the share of classes of low confidence, about 1/2.

  Args:
    temperature: T, above 0.
    tikhonov: what is added to the diagonal of the covariance, above 0; 0.1 in the code.
    direction: the factor of the second term.
    student: its tap, [B, C].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'skd')
    if q.ndim != 2:
      raise KdjaxError(f'skd cannot use the tap {student!r} {list(q.shape)}: it needs [B, C].')
    m = taps.example_mask(batch, q)
    n = m.sum()

    def cosines(x):
      x = losses.unit(losses.zero_masked(x))
      return jnp.matmul(x, x.T, precision='highest')

    rows = jnp.where(m[:, None] * m > 0, cosines(q) - cosines(p), 0)
    centred = (rows - rows.sum(0) / jnp.maximum(n, 1)) * m[:, None]
    covariance = jnp.matmul(centred.T, centred, precision='highest') / jnp.maximum(n - 1, 1)
    factor = jnp.linalg.cholesky(covariance + tikhonov * jnp.eye(len(m), dtype=q.dtype))
    distances = losses.norm(jax.scipy.linalg.solve_triangular(factor, rows.T, lower=True), 0)
    values = losses.kl(p, q, temperature) + direction * distances
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
