"""Match the sigmoid of every image and text pair (loss of SigLIP: Zhai et al., 2303.15343)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import Taps
from kdjax.types import Method

WEIGHT = 1.0  # MobileCLIP2's training code, for a sum over the texts and a mean over the images


def siglip(
  *,
  released: bool = False,
  student: Taps = ('image/embed', 'text/embed', 'logit_scale', 'logit_bias'),
  teacher: Taps = ('image/embed', 'text/embed', 'logit_scale', 'logit_bias'),
) -> Method:
  """Distillation of SigLIP's pairwise sigmoids (arXiv 2303.15343), with soft labels.

  Σ_j KL(Bernoulli(p_ij) || Bernoulli(q_ij)), mean over the images i; p and q are the sigmoid of
  z = exp(logit_scale) · cosine + logit_bias, the teacher's and the student's. It is 0 where the
  two agree, and its gradient by z is q - p. No paper states it: it is SigLIP's loss with the
  teacher's probability for the label. Padding takes no part, neither as image nor as text; pairs of the
  same `group` do, since the target is the teacher's affinities for them.

  Args:
    released: -log sigmoid((2p - 1) · z) instead, as in MobileCLIP2's training code. Its gradient
      is not 0 where the two agree: it pushes every pair away from p = 1/2.
    student: its image and text embedding, [B, D] each, the log of its logit scale, [], and its
      logit bias, [].
    teacher: the same of the teacher; D may differ.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    def logits(outputs, names, model):
      v, w, log_scale, bias = taps.towers(outputs, names, 'siglip', model, scalars=2)
      cosine = jnp.matmul(losses.unit(v), losses.unit(w).T, precision='highest')
      return jnp.exp(log_scale) * cosine + bias

    z, target = logits(s, student, 'student'), logits(t, teacher, 'teacher')
    log_sigmoid = jax.nn.log_sigmoid
    p = jax.nn.sigmoid(target)
    if released:
      pairs = -log_sigmoid((2 * p - 1) * z)
    else:
      pairs = p * (log_sigmoid(target) - log_sigmoid(z))
      pairs += jax.nn.sigmoid(-target) * (log_sigmoid(-target) - log_sigmoid(-z))
    values = jnp.sum(pairs * taps.example_mask(batch, z), -1)
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
