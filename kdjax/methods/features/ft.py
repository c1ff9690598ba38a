"""Factors: match a paraphrase of the teacher's map (Kim et al., 1802.04977)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import adapters, losses, taps
from kdjax.nn.conv import Conv
from kdjax.options import NonNegative, Power, SomeShare, Stages, Whole
from kdjax.types import Method

WEIGHT = 200.0  # Knowledge-Distillation-Zoo for whole factors, RepDistiller with power = 2; mean over entries


def block(x, width, name):
  return Conv(width, (3, 3), dtype=x.dtype, name=name)(x)


class Paraphraser(nn.Module):
  """(the teacher's factor [B, H, W, factor], the map rebuilt from it): three 3×3 convolutions each."""

  factor: int

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    for i, n in enumerate((width, self.factor, self.factor)):
      x = nn.leaky_relu(block(x, n, f'encoder{i}'), 0.1)
    rebuilt = x
    for i, n in enumerate((self.factor, width, width)):
      rebuilt = nn.leaky_relu(block(rebuilt, n, f'decoder{i}'), 0.1)
    return x, rebuilt


class Translator(nn.Module):
  """The student's factor: three 3×3 convolutions, each with batch norm."""

  factor: int

  @nn.compact
  def __call__(self, x, mask):
    for i, n in enumerate((x.shape[-1], self.factor, self.factor)):
      x = adapters.BatchNorm(name=f'bn{i}')(block(x, n, f'conv{i}'), mask)
      x = nn.leaky_relu(x, 0.1)
    return x


def distance(a, b, power: int | None, p: int):
  """Mean over entries of |n(a) - n(b)|^p of two factors [B, H, W, C], the larger averaged down: [B]."""
  a, b = losses.to_one_size(a, b)
  if power:
    a, b = jnp.mean(a**power, -1), jnp.mean(b**power, -1)
  return jnp.mean(jnp.abs(losses.unit(losses.flatten(a)) - losses.unit(losses.flatten(b))) ** p, -1)


def ft(
  *,
  k: SomeShare = 0.5,
  power: Power | None = None,
  p: Power = 1,
  reconstruction: NonNegative = 0.005,
  reconstruction_steps: Whole | None = None,
  student: Stages = 'image/stage3',
  teacher: Stages = 'image/stage3',
) -> Method:
  """Factor transfer (arXiv 1802.04977, section 3).

  mean |n(translator(f_S)) - n(paraphraser(f_T))|^p, n the L2 norm over the whole factor, plus
  `reconstruction` · mean (decoder(paraphraser(f_T)) - f_T)², which trains the paraphraser alone as
  an autoencoder; the first term trains the student and the translator alone. The translator's
  batch norm relates the examples of a batch.

  Deviations from the paper: the paraphraser has no batch norm, as in RepDistiller, and by default
  it is trained beside the student; `reconstruction_steps` gives the paper's two stages.

  Args:
    k: channels of a factor, as a share of the teacher's.
    power: None for the paper's factors; 2 for those of RepDistiller and its table, which are first
      collapsed to the mean over the channels of their squares.
    p: the power of the difference; 1 and 2 in the paper.
    reconstruction: the factor of the second term; 1/200, since the method's weight is 200.
    reconstruction_steps: so many steps of the second term alone, then the first alone; None for
      both throughout.
    student: its tap, a map [B, H, W, C].
    teacher: its tap, of any width.
  """

  def read(s, t, batch):
    pairs = taps.stages(s, t, student, teacher, 'ft')
    if len(pairs) > 1:
      raise KdjaxError(f'ft has one stage, not {student!r}: give each of several an entry of its own.')
    a, b = pairs[0]
    factor = max(int(b.shape[-1] * k), 1)
    return a, b, taps.example_mask(batch, a), Paraphraser(factor), Translator(factor)

  def init(rng, s, t, batch):
    a, b, mask, paraphraser, translator = read(s, t, batch)
    rngs = jax.random.split(rng)
    return {
      'paraphraser': paraphraser.init(rngs[0], b)['params'],
      'translator': translator.init(rngs[1], a, mask)['params'],
    }, {}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b, mask, paraphraser, translator = read(s, t, batch)
    factor, rebuilt = adapters.forward(paraphraser, params['paraphraser'], b)
    translated = adapters.forward(translator, params['translator'], a, mask)
    transfer = distance(translated, jax.lax.stop_gradient(factor), power, p)
    rebuild = reconstruction * taps.mean_over_axes((rebuilt - b) ** 2)
    if reconstruction_steps is None:
      values = transfer + rebuild
    else:
      values = jnp.where(step < reconstruction_steps, rebuild, transfer)
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss, relational=True)
