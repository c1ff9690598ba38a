"""Exits at the student's stages, for teachers of another architecture (OFA-KD, Hao et al., 2310.19444)."""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.nn import losses, taps
from kdjax.nn.adapters import forward
from kdjax.options import NonNegative, Size, Stages, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the authors' scripts, beside 1 on the labels
Exponent = Annotated[float, Interval(ge=1, le=10)]


class Exits(nn.Module):
  """Logits of each feature: the mean over its positions, a hidden layer and a linear one."""

  classes: int
  width: int

  @nn.compact
  def __call__(self, features):
    logits = []
    for i, x in enumerate(features):
      x = x.reshape(x.shape[0], -1, x.shape[-1]).mean(1)
      x = nn.gelu(nn.Dense(self.width, dtype=x.dtype, name=f'hidden{i}')(x))
      logits.append(nn.Dense(self.classes, dtype=x.dtype, name=f'exit{i}')(x))
    return logits


def ofa_kd(
  *,
  power: Exponent = 1.5,
  temperature: Temperature = 1.0,
  exits: NonNegative = 1.0,
  width: Size = 128,
  features: Stages = ('image/stage1', 'image/stage2', 'image/stage3'),
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """One-for-all distillation (arXiv 2310.19444, equation 6): the features speak in class scores.

  Each of the student's features gets an exit of its own, which is trained with it and discarded. The loss of
  the last logits, plus `exits` times that of every exit, is -Σ ((p + 1[label])^γ - 1[label]) · log q, p and q
  the softmaxes of teacher and student at T: γ > 1 weighs the label's class by how sure the teacher is. Mean
  over the examples; where the label is not known there is no such class. Checked against
  Hao840/OFAKD@12eeba8, distillers/ofa.py. Deviation: an exit is a mean and an MLP of one hidden layer, for
  maps and tokens alike, where the authors have separable convolutions, or Transformer layers.

  Args:
    power: γ, 1 or more.
    temperature: T, above 0.
    exits: the weight of each exit.
    width: of the hidden layer of an exit.
    features: the student's taps, [B, ..., D] each.
    student: its logits, [B, C].
    teacher: its logits, [B, C].
  """

  def of(s):
    names = (features,) if isinstance(features, str) else features
    return [taps.tap(s, name, 'ofa_kd', 'student') for name in names]

  def init(rng, s, t, batch):
    q, _ = taps.pair(s, t, student, teacher, 'ofa_kd')
    return Exits(q.shape[-1], width).init(rng, of(s))['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'ofa_kd')
    label = batch.get('label', jnp.full(len(q), -1, jnp.int32))
    target = jax.nn.one_hot(label, q.shape[-1], dtype=p.dtype)  # -1: zeros
    p = jax.nn.softmax(losses.soften(p, temperature))
    weights = jnp.power(jnp.where(p + target == 0, 1, p + target), power)
    weights = jnp.where(p + target == 0, 0, weights) - target

    def term(logits):
      return -losses.expected(weights, jax.nn.log_softmax(losses.soften(logits, temperature)))

    values = term(q)
    if exits:
      values += exits * losses.total(map(term, forward(Exits(q.shape[-1], width), params, of(s))))
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
