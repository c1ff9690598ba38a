"""KL over the non-target classes, where both models rank the classes alike (C²KD, Huo et al., CVPR 2024)."""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the authors' code, every term


class Proxy(nn.Module):
  """Class scores from a feature, averaged over its places: linear, batch norm, leaky ReLU, linear."""

  classes: int

  @nn.compact
  def __call__(self, x):
    dtype, x = x.dtype, x.reshape(x.shape[0], -1, x.shape[-1]).mean(1)
    x = nn.Dense(x.shape[-1], use_bias=False, dtype=dtype, name='in')(x)
    x = nn.BatchNorm(False, momentum=0.9, use_fast_variance=False, dtype=dtype, name='bn')(x)
    return nn.Dense(self.classes, dtype=dtype, name='out')(nn.leaky_relu(x, 0.1))


class Proxies(nn.Module):
  """One proxy for the student's feature and one for the teacher's."""

  classes: int

  @nn.compact
  def __call__(self, a, b):
    return Proxy(self.classes, name='student')(a), Proxy(self.classes, name='teacher')(b)


def kendall(x, y):
  """Kendall's τ-b between the class orders of `[B, C]` scores: `[B]`, 0 where all are equal."""
  x, y = (jnp.maximum(z, losses.RULED_OUT) for z in (x, y))  # -inf less itself would be NaN
  x, y = (jnp.sign(z[:, :, None] - z[:, None]) for z in (x, y))
  untied = jnp.sum(jnp.abs(x), (1, 2)) * jnp.sum(jnp.abs(y), (1, 2))
  return jnp.sum(x * y, (1, 2)) / jnp.sqrt(jnp.where(untied > 0, untied, 1))


def c2kd(
  *,
  threshold: Annotated[float, Interval(ge=-1, le=1)] = 0.0,
  temperature: Temperature = 1.0,
  keep_target: bool = False,
  proxies: bool = True,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
  student_embed: Tap = 'embed',
  teacher_embed: Tap = 'embed',
) -> Method:
  """Customised cross-modal distillation (Huo et al., CVPR 2024).

  KL(p || q) over the classes other than the label's, of the examples whose two class orders have a
  rank correlation (Kendall's τ-b) above `threshold`; the others and those with no known label give
  0, and the mean is over all. p and q come from a learned proxy of each model on its features,
  trained both ways: q also teaches p, the student teaches and learns from its proxy (KL over all
  classes), and the teacher teaches its own. `temperature` brings no T², as in the authors' code.

  Deviations: the teacher itself learns nothing, where the paper also trains it, and the label's
  class is left out, where the code keeps it (`keep_target`). With two classes nothing is left. A
  class that both models rule out their proxies rule out too.

  Args:
    threshold: of the rank correlation.
    temperature: T of the KL over the other classes.
    keep_target: keeps the label's class, with a logit of 0 in both models, as the authors' code.
    proxies: whether there are proxies; with none, the teacher's logits teach the student's alone.
    student: its class scores, [B, C].
    teacher: its class scores, of the same shape.
    student_embed: the feature of its proxy, [B, ..., D].
    teacher_embed: the feature of its proxy, [B, ..., E].
  """

  def features(s, t):
    return taps.pair(s, t, student_embed, teacher_embed, 'c2kd', same_shape=False)

  def init(rng, s, t, batch):
    if not proxies:
      return {}, {}
    classes = taps.tap(s, student, 'c2kd', 'student').shape[-1]
    variables = Proxies(classes).init(rng, *features(s, t))
    return variables['params'], {k: v for k, v in variables.items() if k != 'params'}

  def other_classes(q, p, label):
    q, p = (losses.divide(x, temperature) for x in (q, jax.lax.stop_gradient(p)))
    if keep_target:
      target = jax.nn.one_hot(label, q.shape[-1], dtype=bool)
      return losses.kl(jnp.where(target, 0, p), jnp.where(target, 0, q))
    return losses.kl(losses.without_class(p, label), losses.without_class(q, label))

  def loss(params, stats, s, t, batch, *, step, rng):
    logits, target = taps.pair(s, t, student, teacher, 'c2kd')
    label, known = taps.labelled(logits, batch, 'c2kd')
    q, p, new_stats = logits, target, stats
    if proxies:
      (q, p), new_stats = Proxies(logits.shape[-1]).apply(
        {'params': params, **stats}, *features(s, t), mutable=list(stats)
      )
      out = losses.ruled_out(logits) & losses.ruled_out(target)
      q, p = (jnp.where(out, -jnp.inf, x) for x in (q, p))
    detach = jax.lax.stop_gradient
    chosen = (kendall(detach(q), detach(p)) > threshold) & (known['mask'] > 0)
    values = jnp.where(chosen, other_classes(q, p, label), 0)
    if proxies:
      values += jnp.where(chosen, other_classes(p, q, label), 0)
      values += losses.kl(detach(logits), q) + losses.kl(detach(q), logits) + losses.kl(target, p)
    return taps.mean_over_examples(values, batch), dict(new_stats)

  return Method(init, loss, relational=proxies)
