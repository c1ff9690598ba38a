"""The difference of two embeddings: its square, its mean or its norm (as in MFH, 2206.06487)."""

from typing import Literal

import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method

WEIGHT = 1.0  # MFH, on the mean square between the outputs of two modalities
NUMBERS = True  # pairs the numbers of a regression as well as class scores

PER_EXAMPLE = ('mse', 'scale_invariant')
DISTANCES = (*PER_EXAMPLE, 'mean', 'norm')


def alignment(
  *,
  distance: Literal['mse', 'scale_invariant', 'mean', 'norm'] = 'mse',
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Distances between two embeddings of one width, d = student - teacher (arXiv 2206.06487).

  'mse': mean of d². 'scale_invariant': mean of d² - (mean of d)² of each example, as in Domain
  Separation Networks (arXiv 1608.06019). 'mean': (mean of d)² over the whole batch, what the code
  of MFH calls SIMSE: the second term of it, without its sign. 'norm': the L2 norm of all of d over
  B · D, MFH's DisLoss. The last two count once a batch; padding takes no part.

  Args:
    distance: one of the four.
    student: its tap, flattened to [B, D].
    teacher: its tap, of the same shape.
  """
  if distance not in DISTANCES:
    raise unknown('distance of alignment', distance, DISTANCES)

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'alignment')
    d = losses.flatten(jnp.subtract(*losses.both_masked(a, b)))
    if distance in PER_EXAMPLE:
      values = jnp.mean(jnp.square(d), 1)
      if distance == 'scale_invariant':
        values -= jnp.square(d.mean(1))
      return taps.mean_over_examples(values, batch), stats
    m = taps.example_mask(batch, d)[:, None]
    n = jnp.maximum(m.sum() * d.shape[1], 1)
    total = (jnp.sum(d * m) / n) ** 2 if distance == 'mean' else losses.norm(d * m, None) / n
    return (total, jnp.ones_like(total)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=distance not in PER_EXAMPLE)
