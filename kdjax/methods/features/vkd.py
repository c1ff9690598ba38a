"""An orthogonal projection to the teacher's normalised features (VkD, Miles et al., 2403.06213)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy.linalg

from kdjax.nn import adapters, losses, taps
from kdjax.options import Eps, Stages
from kdjax.types import Method

WEIGHT = 1.0  # beside 1 on the labels


class Orthogonal(nn.Module):
  """Maps of the student's features to the teacher's widths, [..., D] -> [..., E], with orthonormal rows.

  exp(W - Wᵀ) is orthogonal whatever W is; its first D rows are taken, or E columns where D is larger.
  """

  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, features):
    out = []
    for i, (x, width) in enumerate(zip(features, self.widths, strict=True)):
      size = max(x.shape[-1], width)
      w = self.param(f'skew{i}', nn.initializers.normal(size**-0.5), (size, size))
      rotation = jax.scipy.linalg.expm(w - w.T)[: x.shape[-1], :width].astype(x.dtype)
      out.append(jnp.matmul(x, rotation, precision='highest'))
    return out


def vkd(*, eps: Eps = 1e-5, student: Stages = 'image/stage3', teacher: Stages = 'image/stage3') -> Method:
  """Distillation through orthogonal projections (arXiv 2403.06213, section 3).

  smooth L1 of P z_s - standardised z_t, mean over the values; P has orthonormal rows, so that it keeps what
  the student's features say of each other, and is learned as exp(W - Wᵀ) and discarded. The teacher's
  feature is brought to mean 0 and variance 1 over its values, as by a layer norm without weights, which the
  paper takes for discriminative tasks. Not checked against the released code, roymiles/vkd, which was not
  at hand.

  Args:
    eps: is added to the teacher's variance.
    student: its taps, [B, ..., D].
    teacher: as many, [B, ..., E], with the same axes between.
  """

  def pairs(s, t):
    return taps.stages(s, t, student, teacher, 'vkd', rank=None, differ=(-1,))

  def init(rng, s, t, batch):
    both = pairs(s, t)
    return Orthogonal(tuple(b.shape[-1] for _, b in both)).init(rng, [a for a, _ in both])['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    both = pairs(s, t)
    module, values = Orthogonal(tuple(b.shape[-1] for _, b in both)), []
    for y, (_, b) in zip(adapters.forward(module, params, [a for a, _ in both]), both, strict=True):
      values.append(taps.mean_over_axes(losses.smooth_l1(y - standardised(b, eps))))
    return taps.mean_over_examples(losses.total(values), batch), stats

  return Method(init, loss)


def standardised(x, eps):
  """[..., E] with mean 0 and variance 1 over the last axis."""
  x = x - x.mean(-1, keepdims=True)
  top = losses.largest(x, -1)
  x = x / top
  return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + eps / top**2)
