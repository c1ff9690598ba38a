"""Schedules of learning rates, of loss weights and of averages, as functions of the step."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import optax

from kdjax.errors import KdjaxError, unknown
from kdjax.options import Share

Falls = Literal['constant', 'linear', 'cosine']


def learning_rate(
  peak: float,
  steps: int,
  *,
  schedule: str = 'cosine',
  warmup: float = 0.0,
  boundaries: tuple[float, ...] = (),
  factor: float = 0.1,
) -> Callable:
  """`step -> learning rate`.

  Args:
    peak: the largest learning rate.
    steps: of the whole training.
    schedule: 'constant', 'linear' or 'cosine' down to 0, or 'steps' (times `factor` at each
      of the `boundaries`).
    warmup: share of the steps over which the rate grows from 0.
    boundaries: shares of the steps.
    factor: what a boundary multiplies with.
  """
  warmup_steps = round(warmup * steps)
  decay_steps = max(steps - warmup_steps, 1)
  schedules = {
    'constant': lambda: optax.constant_schedule(peak),
    'linear': lambda: optax.linear_schedule(peak, 0.0, decay_steps),
    'cosine': lambda: optax.cosine_decay_schedule(peak, decay_steps),
    'steps': lambda: optax.piecewise_constant_schedule(
      peak, {round(b * steps) - warmup_steps: factor for b in boundaries}
    ),
  }
  if schedule not in schedules:
    raise unknown('schedule', schedule, schedules)
  if not warmup_steps:
    return schedules[schedule]()
  return optax.join_schedules(
    [optax.linear_schedule(0.0, peak, warmup_steps), schedules[schedule]()], [warmup_steps]
  )


def average_decay(decay: float) -> Callable:
  """`step -> decay` of a moving average with warm-up: min(decay, (1 + t) / (10 + t)).

  As in TensorFlow and timm. So the random initial weights do not stay in an average that is longer than the
  training: after 20 steps they count for a ten-millionth.
  """
  return lambda step: jnp.minimum(decay, (1 + step) / (10 + step))


def weight_schedule(
  steps: int,
  *,
  schedule: Falls = 'constant',
  start: Share = 0.0,
  stop: Share = 1.0,
  warmup: Share = 0.0,
) -> Callable:
  """`step -> factor` of a loss weight: inside the window [start, stop) of the training, else 0.

  Args:
    steps: of the whole training.
    schedule: 'constant' 1; 'linear' or 'cosine' from 1 at `start` to 0 at `stop`.
    start: share of the steps at which the window begins.
    stop: share of the steps at which it ends.
    warmup: share of the steps over which the factor grows from 0.

  Raises:
    KdjaxError: if the window is empty.
  """
  if not 0 <= start < stop <= 1:
    raise KdjaxError(
      f'a loss is weighted from start={start} to stop={stop}; it takes 0 <= start < stop <= 1.'
    )
  first, last, warmup_steps = round(start * steps), round(stop * steps), max(warmup * steps, 1e-9)
  curves = {
    'constant': lambda x: jnp.ones_like(x),
    'linear': lambda x: 1 - x,
    'cosine': lambda x: 0.5 * (1 + jnp.cos(jnp.pi * x)),
  }
  if schedule not in curves:
    raise unknown('schedule', schedule, curves)

  def factor(step):
    step = jnp.asarray(step, jnp.float32)
    inside = (step >= first) & (step < last)
    ramp = jnp.minimum((step - first + 1) / warmup_steps, 1)
    return jnp.where(inside, ramp * curves[schedule]((step - first) / max(last - first, 1)), 0.0)

  return factor
