"""Similarities to a queue of the teacher's embeddings (SEED, Fang et al., 2101.04731)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.nn.adapters import forward
from kdjax.options import Count, NoOrSize, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the paper's only loss


class Head(nn.Module):
  """`[B, D] -> [B, width]`: a linear layer, or an MLP of one hidden layer."""

  width: int
  hidden: int

  @nn.compact
  def __call__(self, x):
    if self.hidden:
      x = nn.relu(nn.Dense(self.hidden, dtype=x.dtype, name='hidden')(x))
    return nn.Dense(self.width, dtype=x.dtype, name='out')(x)


def appended(queue, place, rows, mask):
  """(the queue with the rows of mask 1 in place of its oldest, the place after them)."""
  at = jnp.cumsum(mask > 0) - 1  # of each row among those that are kept
  count = jnp.sum(mask > 0)
  kept = (mask > 0) & (at >= count - len(queue))  # of a batch that is larger than the queue, its last
  places = jnp.where(kept, (place + at) % len(queue), len(queue))
  return queue.at[places].set(rows, mode='drop'), (place + count) % len(queue)


def seed(
  *,
  size: Count = 65_536,
  student_temperature: Temperature = 0.2,
  teacher_temperature: Temperature = 0.01,
  hidden: NoOrSize = 0,
  student: Tap = 'embed',
  teacher: Tap = 'embed',
) -> Method:
  """Self-supervised distillation (arXiv 2101.04731): no labels are needed.

  -Σ_j p_j · log q_j over the example itself and the queue of the teacher's embeddings of earlier examples: p
  = softmax(z_T · d_j / τ_T) and q = softmax(h(z_S) · d_j / τ_S), all vectors of length 1, d_0 the teacher's
  embedding of the example. h is learned. Mean over the examples. Then the teacher's embeddings of the batch
  take the place of the oldest of the queue, which starts as random directions. Checked against
  jacobswan1/SEED@81ff933, seed/builder.py, whose class has τ_S = 0.07 and τ_T = 0.0001 by default. Padding
  does not enter the queue, and a batch need not divide it. With `token_similarity` beside it, it distils
  class tokens and patches alike.

  Args:
    size: of the queue, K; it takes 4 · K · D bytes.
    student_temperature: τ_S, above 0.
    teacher_temperature: τ_T.
    hidden: width of the hidden layer of h; 0 for a linear h.
    student: its tap, [B, D], such as a class token; of [B, ..., D] the mean.
    teacher: its tap, [B, ..., E].
  """

  def read(s, t):
    pair = taps.pair(s, t, student, teacher, 'seed', same_shape=False)
    a, b = (x.reshape(x.shape[0], -1, x.shape[-1]).mean(1) for x in pair)
    return a, b, Head(b.shape[-1], hidden)

  def init(rng, s, t, batch):
    a, b, head = read(s, t)
    of_head, of_queue = jax.random.split(rng)
    queue = losses.unit(jax.random.normal(of_queue, (size, b.shape[-1]), b.dtype))
    return head.init(of_head, a)['params'], {'queue': queue, 'place': jnp.zeros((), jnp.int32)}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b, head = read(s, t)
    v, w = losses.unit(forward(head, params, a)), losses.unit(b)

    def similarities(x):
      own = jnp.sum(x * w, -1, keepdims=True)
      return jnp.concatenate([own, jnp.matmul(x, stats['queue'].T, precision='highest')], -1)

    log_q = jax.nn.log_softmax(similarities(v) / student_temperature)
    p = jax.nn.softmax(similarities(w) / teacher_temperature)
    queue, place = appended(stats['queue'], stats['place'], w, taps.example_mask(batch, w))
    values = -losses.expected(p, log_q)
    return taps.mean_over_examples(values, batch), {'queue': queue, 'place': place.astype(jnp.int32)}

  return Method(init, loss, relational=True)  # the queue is filled in one order
