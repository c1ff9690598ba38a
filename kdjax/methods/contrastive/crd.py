"""Contrast with a memory of all examples: CRD (Tian et al., 1910.10699)."""

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.nn.adapters import TwoEmbeddings, forward
from kdjax.options import Count, Decay, Size, Tap, Temperature
from kdjax.types import Method

WEIGHT = 0.8  # RepDistiller, sum over 1 + 16,384 terms of both sides, mean over the examples
EPS = 1e-7
EXAMPLES = 'size'  # the option that a recipe's training data decide, unless it is set


def draw(rng, ids, labels, negatives):
  """Rows of the banks to contrast with, `[B, 1 + negatives]`: each id, then its negatives.

  The negatives are uniform over the examples of another label, with replacement. Each example
  draws from its own stream, whatever its place in the batch.

  Args:
    rng: the key of the step.
    ids: `[B]`.
    labels: `[N]`, of every example of the training set; negative and unique where not known.
    negatives: how many to draw.
  """
  n, order = len(labels), jnp.argsort(labels)
  known = labels[order]
  first = jnp.searchsorted(known, labels[ids], side='left')
  n_same = jnp.searchsorted(known, labels[ids], side='right') - first

  def draw_one(i, first, n_same):
    # All examples in the order of their labels, without the run that shares this one's.
    place = jax.random.randint(jax.random.fold_in(rng, i), (negatives,), 0, jnp.maximum(n - n_same, 1))
    return order[jnp.minimum(jnp.where(place < first, place, place + n_same), n - 1)]

  return jnp.concatenate([ids[:, None], jax.vmap(draw_one)(ids, first, n_same)], 1)


def crd(
  *,
  size: Count | None = None,
  negatives: Count = 16_384,
  dim: Size = 128,
  temperature: Temperature = 0.07,
  momentum: Decay = 0.5,
  student: Tap = 'embed',
  teacher: Tap = 'embed',
) -> Method:
  """Contrastive representation distillation with two memory banks (arXiv 1910.10699, equation 18).

  -log h(i, i) - Σ_k log(1 - h(i, k)) over K negatives k, h = P / (P + K / N + 1e-7), with P(i, k) =
  exp(v_i·m_k / T) / Z; once with v the student's and m the bank of the teacher's embeddings, once
  the other way round; the two added, mean over the examples. Embeddings are linear, learned, of
  length 1. Z is N times the mean of the exponentials of the first batch, and stays. Afterwards the
  rows of the batch move to momentum · m + (1 - momentum) · v, at length 1.

  The negatives are drawn from the examples of other labels, as far as these were in a batch before; or
  the batch has them as 'contrast_idx' [B, 1 + K], the positive first. Deviation from
  RepDistiller: they are drawn with replacement. `temperature` brings no T². An 'id' outside the
  banks gives a loss of NaN, which stops the run. Memory: 8 · N · `dim` bytes for the banks, and
  B · N scores of each side.

  Args:
    size: N, the number of training examples; every 'id' of the batch is below it. By default as many as
      the training data of a recipe have, and 50,000, CIFAR's, where there is no recipe.
    negatives: K.
    dim: the width of the embeddings.
    temperature: T.
    momentum: of the banks.
    student: its tap, flattened to [B, D].
    teacher: its tap, flattened to [B, E].
  """

  def read(s, t):
    return taps.pair(s, t, student, teacher, 'crd', same_shape=False)

  def init(rng, s, t, batch):
    a, b = read(s, t)
    keys, bound = jax.random.split(rng, 3), (dim / 3) ** -0.5
    n = size or 50_000
    banks = [jax.random.uniform(k, (n, dim), a.dtype, -bound, bound) for k in keys[1:]]
    unset = -jnp.ones((), a.dtype)
    return TwoEmbeddings(dim).init(keys[0], a, b)['params'], {
      'bank': {'student': banks[0], 'teacher': banks[1]},
      'z': {'student': unset, 'teacher': unset},
      'label': -1 - jnp.arange(n, dtype=jnp.int32),
    }

  def loss(params, stats, s, t, batch, *, step, rng):
    if 'id' not in batch:
      raise KdjaxError("crd finds an example in its banks by 'id', which the batch does not have.")
    a, b = forward(TwoEmbeddings(dim), params, *read(s, t))
    v = {'student': losses.unit(a), 'teacher': losses.unit(b)}
    mask, n = taps.example_mask(batch, a), len(stats['label'])
    ids = jnp.where(mask > 0, batch['id'], 0)
    rows = jnp.where(mask > 0, ids, n)  # padding writes nowhere
    labels, label = stats['label'], batch.get('label')
    if label is not None and label.ndim == 1:
      labels = labels.at[rows].set(jnp.where(label >= 0, label, -1 - ids), mode='drop')
    drawn = draw(rng, ids, labels, negatives) if 'contrast_idx' not in batch else batch['contrast_idx']
    drawn = jnp.where(mask[:, None] > 0, drawn, 0)
    noise = (drawn.shape[1] - 1) / n

    values, z, bank = 0.0, {}, {}
    for side, other in (('student', 'teacher'), ('teacher', 'student')):
      # A tenth of a percent, as reduced precision gives, is more than one percent of exp(1 / T).
      cosines = jnp.matmul(v[side], stats['bank'][other].T, precision='highest')
      scores = jnp.take_along_axis(cosines, drawn, 1) / temperature
      mean, count = taps.mean_over_examples(jnp.exp(scores).mean(1), batch)
      mean = jax.lax.stop_gradient(n * mean / jnp.maximum(count, 1))
      z[side] = jnp.where((stats['z'][side] < 0) & (count > 0), mean, stats['z'][side])
      log_p = scores - jnp.log(jnp.where(z[side] > 0, z[side], 1))
      log_sum = jnp.log(jnp.exp(log_p) + noise + EPS)
      values += (log_sum - log_p)[:, 0] + jnp.sum(log_sum[:, 1:] - jnp.log(noise), 1)
      old = stats['bank'][side]
      new = losses.unit(momentum * old[ids] + (1 - momentum) * jax.lax.stop_gradient(v[side]))
      bank[side] = old.at[rows].set(new, mode='drop')
    return taps.mean_over_examples(values, batch), {'bank': bank, 'z': z, 'label': labels}

  return Method(init, loss, relational=True)
