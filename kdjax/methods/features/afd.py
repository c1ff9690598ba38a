"""Which stage learns from which: attention between all stages of both models (Ji et al., 2102.02973, AFD)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import adapters, losses, taps
from kdjax.options import Size, Taps
from kdjax.types import Method

WEIGHT = 200.0  # the authors' code, beside 0.1 on the labels and 0.9 on kd at T = 4

STAGES = ('image/stage1', 'image/stage2', 'image/stage3')


class Selection(nn.Module):
  """The weight [B, T, S], of sum 1 over S, of each of S students' maps for each of T teachers'."""

  dim: int

  @nn.compact
  def __call__(self, students, teachers, mask):
    def embed(x, width, name):
      x = nn.Dense(width, dtype=x.dtype, name=name)(x)
      return adapters.BatchNorm(name=f'{name}_norm')(x, mask)

    n_s, n_t = len(students), len(teachers)
    means = [[x.mean((1, 2)) for x in maps] for maps in (students, teachers)]
    keys = jnp.stack([nn.relu(embed(x, self.dim, f'key{i}')) for i, x in enumerate(means[0])], 1)
    queries = jnp.stack([embed(x, self.dim, f'query{i}') for i, x in enumerate(means[1])], 1)
    keys = embed(keys, self.dim * n_t, 'bilinear').reshape(len(keys), n_s, n_t, self.dim)
    xavier = nn.initializers.xavier_normal()
    places = [
      self.param(f'{model}_place', xavier, (n, self.dim)).astype(keys.dtype)
      for model, n in (('student', n_s), ('teacher', n_t))
    ]
    z = jnp.einsum('btd,bstd->bts', queries, keys, precision='highest')
    z += jnp.einsum('td,sd->ts', places[1], places[0], precision='highest')
    return nn.softmax(z / self.dim**0.5)


def afd(*, dim: Size = 128, student: Taps = STAGES, teacher: Taps = STAGES) -> Method:
  """Attention-based feature distillation (arXiv 2102.02973).

  Σ over the teacher's taps of Σ over the student's of α_ts · mean over HW of (n(a_s) - n(a_t))², mean
  over the examples. a is the mean over the channels of the squared map, the student's averaged, or
  repeated, to the teacher's size, and n divides it by its L2 norm. α_ts, a softmax over the student's
  taps, is learned: (query_t · W_t key_s + place_t · place_s) / √dim, queries and keys being linear with
  batch norm on the maps' means over their places, the keys after a ReLU, as in the authors' code. The
  batch norms relate the examples of a batch.

  Args:
    dim: the width of queries, keys and places.
    student: its taps, maps [B, H, W, C].
    teacher: its taps, maps, any number of them.
  """
  names = [(n,) if isinstance(n, str) else tuple(n) for n in (student, teacher)]

  def read(s, t, batch):
    a = [taps.tap(s, n, 'afd', 'student') for n in names[0]]
    b = [jax.lax.stop_gradient(taps.tap(t, n, 'afd', 'teacher')) for n in names[1]]
    for n, x in zip(sum(names, ()), a + b, strict=True):
      if x.ndim != 4:
        raise KdjaxError(f'afd needs maps [B, H, W, C], and {n!r} is {list(x.shape)}.')
    return a, b, taps.example_mask(batch, a[0])

  def attention(x, size):
    return losses.unit(
      losses.flatten(losses.average_to(jnp.mean(losses.scaled(x, (1, 2, 3)) ** 2, -1, keepdims=True), size))
    )

  def init(rng, s, t, batch):
    return Selection(dim).init(rng, *read(s, t, batch))['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b, mask = read(s, t, batch)
    alpha = adapters.forward(Selection(dim), params, a, b, mask)
    values = jnp.zeros((), mask.dtype)
    for i, y in enumerate(b):
      size = y.shape[1:3]
      for j, x in enumerate(a):
        values += alpha[:, i, j] * jnp.mean((attention(x, size) - attention(y, size)) ** 2, -1)
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss, relational=True)
