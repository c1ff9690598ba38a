"""Several image encoders in one, tokens and teachers weighed by a class token (MoVE-KD, 2501.01709)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import taps
from kdjax.nn.adapters import forward
from kdjax.options import Share, Tap, Taps
from kdjax.types import Method

WEIGHT = 0.5  # the authors' scripts, beside 1 on the labels


class Adapters(nn.Module):
  """Tokens `[B, N, D]` of each teacher's `[B, n, E]`: a linear layer to D, then one over the places to N.

  The first teacher's stay as they are where they are of that shape.
  """

  @nn.compact
  def __call__(self, tokens, places, width):
    adapted = []
    for i, x in enumerate(tokens):
      if i or x.shape[1:] != (places, width):
        x = nn.gelu(nn.Dense(width, dtype=x.dtype, name=f'values{i}')(x), approximate=False)
        x = nn.Dense(places, dtype=x.dtype, name=f'places{i}')(x.swapaxes(1, 2)).swapaxes(1, 2)
      adapted.append(x)
    return adapted


def move_kd(
  *,
  first: Share = 0.8,
  class_token: bool = True,
  released: bool = False,
  student: Tap = 'image/tokens',
  teachers: Taps = ('image/tokens',),
  attention: Tap = 'image/attention2',
) -> Method:
  """Attention-guided distillation of several image encoders (MoVE-KD, arXiv 2501.01709, section 3.3).

  Σ over the teachers i of w_i · (the mean over the tokens of d + Σ over the tokens of a · d), mean over the
  examples; d is the mean of (student's token - teacher's, through an adapter that is learned)² over the
  values, and a is what the class token of the first teacher attends to among the patches, mean of the heads.
  The first teacher, CLIP in the paper, has w = `first`; the others share the rest by the softmax of the dot
  product of a class token and the mean of their adapted tokens. The class token is the first teacher's if it
  is of the student's width, else the student's. No gradient passes through the weights.

  Checked against a fork of the authors' code, m42d13/Move-kd@4e2caf7,
  llava/model/language_model/move_llava_llama.py, as hey-cjj/MoVE-KD was stored without it. Deviations: the
  code takes the softmax of what is attended to once more, which makes it all but even (`released`); its rule
  for a batch in which one of the others has more than 0.8 of the rest is left out, as a weight would depend
  on the batch; gradients pass through its weights to the adapters; and the low-rank experts of the student
  are no part of this loss.

  Args:
    first: the weight of the first of several teachers.
    class_token: whether the student's tokens begin with a class token, which does not learn.
    released: whether the attention goes through a softmax once more.
    student: its tokens, [B, N, D], or [B, 1 + N, D] with a class token.
    teachers: a tap of each, `<teacher>/<tap>` of the members of an `ensemble`: of the first [B, 1 + N, E],
      a class token and as many patches as the student has, as of `vit_class_token`; of others any tokens or
      maps [B, ..., E].
    attention: scores before the softmax of the first, [B, heads, 1 + N, 1 + N].
  """

  def read(s, t):
    both = [taps.pair(s, t, student, name, 'move_kd', same_shape=False) for name in teachers]
    whole, main = both[0]
    q, rest = whole[:, int(class_token) :], [x.reshape(len(x), -1, x.shape[-1]) for _, x in both[1:]]
    scores = jax.lax.stop_gradient(taps.tap(t, attention, 'move_kd', 'teacher'))
    n = main.shape[1]
    if main.ndim != 3 or q.shape[1] != n - 1 or scores.ndim != 4 or scores.shape[2:] != (n, n):
      raise KdjaxError(
        f'move_kd pairs the student tap {student!r} {list(whole.shape)} with the first teacher tap '
        f'{teachers[0]!r} {list(main.shape)} and its attention {attention!r} {list(scores.shape)}: they need '
        'as many patches, the latter two behind a class token; class_token says whether the student has one.'
      )
    token = main[:, 0] if main.shape[-1] == q.shape[-1] else whole[:, 0] if class_token else None
    if token is None and len(teachers) > 2:
      raise KdjaxError(
        f'move_kd weighs the teachers {list(teachers)} by a class token of the width of the student, '
        f'{q.shape[-1]}: choose a first teacher of that width, or a student with a class token.'
      )
    return q, [main[:, 1:], *rest], scores, token

  def init(rng, s, t, batch):
    q, tokens, _, _ = read(s, t)
    return Adapters().init(rng, tokens, *q.shape[1:]).get('params', {}), {}

  def attended(scores):
    """`[B, N]`, of sum 1."""
    if released:
      return jax.nn.softmax(jax.nn.softmax(scores)[:, :, 0, 1:].mean(1))
    return jax.nn.softmax(scores[:, :, 0, 1:]).mean(1)

  def shares(token, adapted):
    """`[B, K]`, the weight of each teacher."""
    if len(adapted) == 1:
      return jnp.ones((len(adapted[0]), 1), adapted[0].dtype)
    others = [x.mean(1) for x in adapted[1:]]
    fit = [jnp.zeros(len(x), x.dtype) if token is None else jnp.sum(token * x, -1) for x in others]
    main = jnp.full((len(fit[0]), 1), first, fit[0].dtype)
    return jnp.concatenate([main, (1 - first) * jax.nn.softmax(jnp.stack(fit, 1))], 1)

  def loss(params, stats, s, t, batch, *, step, rng):
    q, tokens, scores, token = read(s, t)
    adapted = forward(Adapters(), params, tokens, *q.shape[1:])
    far = jnp.stack([jnp.mean((q - x) ** 2, -1) for x in adapted], 1)  # [B, K, N]
    each = far.mean(-1) + jnp.sum(far * attended(scores)[:, None], -1)
    weights = jax.lax.stop_gradient(shares(token, adapted))
    return taps.mean_over_examples(jnp.sum(weights * each, 1), batch), stats

  return Method(init, loss)
