"""Self-supervision: match the teacher's similarities of augmented views and examples (SSKD, 2006.07114)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import adapters, groups, losses, taps
from kdjax.options import Share, Tap, Taps, Temperature
from kdjax.types import Method

WEIGHT = 10.0  # the authors' code at T = 0.5, beside 0.9 on kd and 2.7 on kd of the views at T = 4


class Head(nn.Module):
  """Two linear layers of the tap's own width with a ReLU between."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(x.shape[-1], dtype=x.dtype, name='in')(x))
    return nn.Dense(x.shape[-1], dtype=x.dtype, name='out')(x)


class Heads(nn.Module):
  """One head for the student and one for the teacher, on [1 + V, B, D] each."""

  @nn.compact
  def __call__(self, a, b):
    return Head(name='student')(a), Head(name='teacher')(b)


def similarities(x):
  """Cosines of each view with each example: `[1 + V, B, D] -> [V, B, B]`, the last of examples."""
  x = losses.unit(x)
  return jnp.einsum('vid,jd->vij', x[1:], x[0], precision='highest')


def selected(teacher, valid, others, ratio):
  """The rows to learn from, `[V, B]`: those the teacher gets right, and its least bad mistakes.

  Args:
    teacher: `[V, B, B]`, the teacher's similarities, very low to padding.
    valid: `[V, B]`, 0 for padding.
    others: `[B]` or `[B, B]`, 0 for examples that do not count as mistakes, as of `groups.contrasted`.
    ratio: the share of the mistakes that are kept, those of the smallest rank of the true example.
  """
  true = jnp.diagonal(teacher, axis1=1, axis2=2)
  teacher = jnp.where(others > 0, teacher, -1e9)
  rank = jnp.sum(teacher > true[..., None], -1)
  gap = teacher.max(-1) - true  # among equal ranks the nearer miss comes first, in any batch order
  wrong = (rank > 0) & (valid > 0)
  order = jnp.lexsort((gap.ravel(), jnp.where(wrong, rank, teacher.shape[-1]).ravel()))
  place = jnp.argsort(order).reshape(rank.shape)
  n_kept = jnp.floor(ratio * wrong.sum() + 1e-4)  # 0.1 · 10 is below 1 in floating point
  return (valid > 0) & (~wrong | (place < n_kept))


def sskd(
  *,
  temperature: Temperature = 0.5,
  ratio: Share = 0.75,
  head: bool = True,
  views: Taps = ('view1', 'view2', 'view3'),
  student: Tap = 'embed',
  teacher: Tap = 'embed',
) -> Method:
  """The self-supervised term of SSKD (arXiv 2006.07114, L_ss).

  T² · KL(p || q), q(i, j) = softmax_j(cos(view i, example j) / T) of the student and p of the
  teacher, mean over the kept views of all examples: those whose example is the teacher's nearest,
  and `ratio` of the others. The other terms of SSKD are methods of their own: `kd` on 'logits',
  and `kd` on the logits of the views. It counts once a batch, and padding takes no part in it.
  Examples of the same `group` are no mistakes of each other, neither of the rank nor of the head's
  task; in the KL they stay, since its target is the teacher's similarities of them.

  Deviations: the paper first trains the teacher's head by cross-entropy on the same task at T = 1,
  60 epochs long, and then keeps it. Here it is trained by the same loss beside the student, which
  learns nothing from it, and the weight of the method is on it too. Among mistakes of one rank the
  nearer comes first; the authors' code takes any. Each view is a forward pass of its own, see
  `kdjax/input/views.py`; the authors send all four as one batch, over which batch norm takes its means.

  Args:
    temperature: T.
    ratio: the share of the teacher's mistakes that are kept.
    head: whether each side goes through a learned head; with no head, the taps are compared.
    views: prefixes; the tap of a view is `<view>/<tap>` of the same shape. The paper's are rotations:
      student.views={'view1': ('rotate_90',), 'view2': ('rotate_180',), 'view3': ('rotate_270',)}.
    student: its tap of the view as it is, [B, D].
    teacher: its tap of the view as it is, [B, E].
  """

  def read(s, t):
    names = ('', *(f'{view}/' for view in views))
    pairs = [taps.pair(s, t, n + student, n + teacher, 'sskd', same_shape=False) for n in names]
    for side, name in enumerate((student, teacher)):
      shapes = [pair[side].shape for pair in pairs]
      if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise KdjaxError(
          f'sskd needs the tap {name!r} and its views as [B, D], all of one shape; it was given '
          f'{", ".join(str(list(shape)) for shape in shapes)}.'
        )
    return [jnp.stack([pair[side] for pair in pairs]) for side in (0, 1)]

  def init(rng, s, t, batch):
    return (Heads().init(rng, *read(s, t))['params'] if head else {}), {}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = read(s, t)
    if head:
      a, b = adapters.forward(Heads(), params, a, b)
    m = taps.example_mask(batch, a[0])
    q, p = (jnp.where(m > 0, similarities(x), -1e9) for x in (a, b))
    valid = jnp.broadcast_to(m, q.shape[:2])
    others = groups.contrasted(batch, m)
    rows = selected(jax.lax.stop_gradient(p), valid, others, ratio)
    values = temperature**2 * losses.kl(jax.lax.stop_gradient(p), q, temperature)
    total = jnp.sum(jnp.where(rows, values, 0)) / jnp.maximum(rows.sum(), 1)
    if head:
      masked = jnp.where(others > 0, p, -1e9)
      task = -jnp.diagonal(jax.nn.log_softmax(masked), axis1=1, axis2=2)
      total += jnp.sum(jnp.where(valid > 0, task, 0)) / jnp.maximum(valid.sum(), 1)
    return (total, jnp.ones_like(total)), stats

  return Method(init, loss, relational=True)
