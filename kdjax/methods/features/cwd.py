"""Spatial softmax of each channel: KL over the positions of a map (Shu et al., 2011.13256)."""

import jax.numpy as jnp

from kdjax.nn import adapters, losses, taps
from kdjax.options import Stages, Temperature
from kdjax.types import Method

WEIGHT = 5.0  # mmrazor on the class maps of a PSPNet, temperature 1


def cwd(
  *, temperature: Temperature = 1.0, student: Stages = 'image/stage3', teacher: Stages = 'image/stage3'
) -> Method:
  """Channel-wise distillation (arXiv 2011.13256, section 3).

  T² · KL(softmax over HW of f_T / T || the same of f_S), mean over the channels. Where the widths
  differ, a learned 1×1 convolution brings the student's map to the teacher's, as in the paper; a
  larger map is averaged down to the smaller one, which the paper has no need of.

  Args:
    temperature: T, above 0.
    student: its tap or taps, maps [B, H, W, C].
    teacher: as many taps.
  """

  def read(s, t):
    return [losses.to_one_size(*pair) for pair in taps.stages(s, t, student, teacher, 'cwd')]

  def channels(x):
    return jnp.moveaxis(x.reshape(len(x), -1, x.shape[-1]), 1, 2)

  def init(rng, s, t, batch):
    return adapters.Align().init(rng, read(s, t)).get('params', {}), {}

  def loss(params, stats, s, t, batch, *, step, rng):
    values = losses.total(
      temperature**2 * taps.mean_over_axes(losses.kl(channels(b), channels(a), temperature))
      for a, b in adapters.forward(adapters.Align(), params, read(s, t))
    )
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss)
