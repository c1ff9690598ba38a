"""Several teachers, each weighted by its confidence in the label (CA-MKD, Zhang et al., 2201.00007)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Tap, Taps, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the paper's α, beside 1 on the labels


def ca_mkd(
  *, temperature: Temperature = 4.0, student: Tap = 'logits', teachers: Taps = ('logits',)
) -> Method:
  """Confidence-aware multi-teacher distillation of the class scores (arXiv 2201.00007, L_KD).

  Σ_k w_k · T² · KL(softmax(z_k / T) || softmax(student / T)), w_k = (1 - softmax_k(CE_k)) / (K - 1)
  with CE_k teacher k's cross-entropy to the label of the example; mean over the examples with a
  known label. The weights of an example add up to 1, and a single teacher has the weight 1.

  Deviations: the authors' code also divides by K; for its scale divide the weight by K. The term on
  features is left out, since it needs the teachers' classifiers.

  Args:
    temperature: T, above 0.
    student: its tap, [B, C].
    teachers: a tap of each, '<teacher>/<tap>' of the members of an `ensemble`, of the student's shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = [taps.pair(s, t, student, name, 'ca_mkd') for name in teachers]
    label, known = taps.labelled(pairs[0][0], batch, 'ca_mkd')
    logs = jnp.stack([jax.nn.log_softmax(p) for _, p in pairs])
    ce = -jnp.take_along_axis(logs, label[None, :, None], -1)[..., 0]
    w = (1 - jax.nn.softmax(ce, 0)) / (len(pairs) - 1) if len(pairs) > 1 else jnp.ones_like(ce)
    each = jnp.stack([losses.kl(p, q, temperature) for q, p in pairs])
    return taps.mean_over_examples(temperature**2 * jnp.sum(w * each, 0), known), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
