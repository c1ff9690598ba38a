"""Masked generation: rebuild the teacher's map from a masked student's (Yang et al., 2205.01529)."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn import adapters, losses, taps
from kdjax.nn.conv import Conv
from kdjax.options import Rate, Stages
from kdjax.types import Method

WEIGHT = 1.0  # NVIDIA Model Optimizer with the mean; mmrazor has 2e-5 with reduction='sum'


class Generator(nn.Module):
  """Two 3×3 convolutions with ReLU between: [B, H, W, C] -> [B, H, W, C]."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(Conv(x.shape[-1], (3, 3), dtype=x.dtype, name='conv0')(x))
    return Conv(x.shape[-1], (3, 3), dtype=x.dtype, name='conv1')(x)


class Generators(nn.Module):
  """(rebuilt map, teacher's map) of each pair, from the positions of the student's map that are kept."""

  @nn.compact
  def __call__(self, pairs, keep):
    out = []
    for i, (a, b) in enumerate(adapters.Align(name='align')(pairs)):
      out.append((Generator(name=f'generator{i}')(jnp.where(keep[i], a, 0)), b))
    return out


def kept(rng, ids, size, ratio):
  """Which positions stay, [B, h, w, 1]: drawn for each example by its id, however the batch is split."""
  keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(ids)
  return jax.vmap(lambda key: jax.random.bernoulli(key, 1 - ratio, (*size, 1)))(keys)


def mgd(
  *,
  ratio: Rate = 0.65,
  reduction: Literal['mean', 'sum'] = 'mean',
  student: Stages = 'image/stage3',
  teacher: Stages = 'image/stage3',
) -> Method:
  """Masked generative distillation (arXiv 2205.01529, section 3).

  (G(M ⊙ align(f_S)) - f_T)², the mask M one for all channels and new at every step, the generator G
  and, where the widths differ, the 1×1 convolution `align` learned. Deviation from the paper: a
  larger map is averaged down to the smaller one.

  Args:
    ratio: the share of positions that are masked.
    reduction: 'mean' over the entries of an example's map, or their 'sum', as in the paper and
      mmrazor.
    student: its tap or taps, maps [B, H, W, C].
    teacher: as many taps.
  """
  if reduction not in ('mean', 'sum'):
    raise unknown('reduction of methods.mgd', reduction, ('mean', 'sum'))

  def read(s, t, batch, rng):
    pairs = [losses.to_one_size(*p) for p in taps.stages(s, t, student, teacher, 'mgd')]
    ids = batch.get('id', jnp.arange(len(pairs[0][0])))
    sizes = (a.shape[1:3] for a, _ in pairs)
    return pairs, [kept(jax.random.fold_in(rng, i), ids, n, ratio) for i, n in enumerate(sizes)]

  def init(rng, s, t, batch):
    return Generators().init(rng, *read(s, t, batch, rng))['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = adapters.forward(Generators(), params, *read(s, t, batch, rng))
    errors = [losses.flatten((rebuilt - b) ** 2) for rebuilt, b in pairs]
    values = losses.total(e.mean(-1) if reduction == 'mean' else e.sum(-1) for e in errors)
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
