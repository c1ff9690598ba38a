"""The optimizers of optax by name, and their options."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from kdjax import options, settings
from kdjax.errors import KdjaxError, unknown
from kdjax.options import Count, Decay, Eps, NonNegative, Positive, Share
from kdjax.training.schedules import learning_rate
from kdjax.training.schemes import dot

OPTIMISERS = ('adam', 'adamw', 'sgd', 'lamb', 'lars', 'lion', 'adafactor', 'rmsprop', 'nadamw', 'dot')

# The options of optax's functions that a recipe may set.
OPTIONS: dict[str, Any] = {
  'b1': Decay,
  'b2': Decay,
  'eps': Eps,
  'eps_root': Share,
  'nesterov': bool,
  'momentum': Decay | None,  # pyright: ignore[reportOperatorIssue]  # typeshed: Annotated has no |
  'trust_coefficient': Positive,
  'decay_rate': Share,
  'decay': Decay,
  'min_dim_size_to_factor': Count,
  'mu_dtype': settings.Dtype,
  'accumulator_dtype': settings.Dtype,
  'multiply_by_parameter_scale': bool,
  'clipping_threshold': Positive | None,  # pyright: ignore[reportOperatorIssue]
  'factored': bool,
  'initial_scale': NonNegative,
  'eps_in_sqrt': bool,
  'centered': bool,
  'bias_correction': bool,
}


@dataclasses.dataclass(frozen=True)
class More:
  """Further options of every optimizer, beside `settings.Optimiser`, with their defaults."""

  boundaries: Annotated[tuple[Share, ...], "shares of the steps, for schedule='steps'"] = ()
  factor: Annotated[NonNegative, 'what a boundary multiplies the rate with'] = 0.1
  decay_all: Annotated[bool, 'biases and norms decay too'] = False
  max_norm: Annotated[NonNegative, "the largest norm of a unit's incoming weights; 0 for none"] = 0.0


def known_options(name: str) -> dict[str, Any]:
  """Option -> annotation of an optimiser.

  Raises:
    KdjaxError: if there is no such optimiser.
  """
  if name not in OPTIMISERS:
    raise unknown('optimiser', str(name), OPTIMISERS)
  if name == 'dot':
    known = {k: p.annotation for k, p in options.parameters(dot.dot).items() if k != 'learning_rate'}
  else:
    known = {k: OPTIONS[k] for k in inspect.signature(getattr(optax, name)).parameters if k in OPTIONS}
  if name == 'lars':
    known['eps'] = Share
  return known | settings.fields(More) | settings.fields(settings.Optimiser)


def check(config: Any, where: str) -> None:
  """Checks the config of an optimizer.

  Args:
    config: the dict of the recipe.
    where: its key, for the error.

  Raises:
    KdjaxError: for the first mistake, with its key.
  """
  if not isinstance(config, Mapping):
    raise KdjaxError(f"{where} is {options.shown(config)}; it is a dict: {{'name': 'adamw', 'lr': 1e-3}}.")
  for key in ('name', 'lr'):
    if key not in config:
      raise KdjaxError(f'{where} needs {key!r}.')
  known = known_options(config['name'])
  for key, value in config.items():
    if key not in known:
      raise unknown(f'option of the optimiser {config["name"]!r}', str(key), known)
    options.check(value, known[key], f'{where}.{key}')
  if config['name'] == 'dot' and (config.get('clip') or config.get('max_norm')):
    raise KdjaxError("the optimiser 'dot' does not clip: set train.optimiser.clip and max_norm to 0.")
  if config['name'] == 'dot' and config.get('momentum', 0.9) + config.get('delta', 0.075) >= 1:
    raise KdjaxError(f'{where}: momentum + delta of the optimiser dot has to be below 1.')


def optimiser(config: Mapping, steps: int) -> optax.GradientTransformation | dot.Dot:
  """An optax optimiser with clipping and a schedule; only arrays of two axes and more decay.

  'dot' is `kdjax.training.schemes.dot.dot`: it takes no clipping, and lets all parameters decay.

  Args:
    config: 'name', 'lr', optionally 'clip' (global norm), 'weight_decay', 'decay_all' (biases and norms
      decay too), 'max_norm' (see `max_norm`), what `learning_rate` takes, and any option of the optimiser
      itself.
    steps: of the whole training.

  Raises:
    KdjaxError: as `check` does.
  """
  check(config, 'the optimiser')
  options_ = {k: options.tuples(v) for k, v in config.items()}
  name, peak, clip = options_.pop('name'), options_.pop('lr'), options_.pop('clip', 0.0)
  decay, decay_all = options_.pop('weight_decay', 0.0), options_.pop('decay_all', False)
  norm_limit = options_.pop('max_norm', 0.0)
  schedule = {k: options_.pop(k) for k in ('schedule', 'warmup', 'boundaries', 'factor') if k in options_}
  if name == 'dot':
    return dot.dot(learning_rate(peak, steps, **schedule), weight_decay=decay, **options_)
  make = getattr(optax, name)
  known = inspect.signature(make).parameters

  def kernels(params):
    return jax.tree.map(lambda x: decay_all or jnp.ndim(x) > 1, params)

  if decay and 'weight_decay' in known:
    mask = 'weight_decay_mask' if 'weight_decay_mask' in known else 'mask'
    options_ |= {'weight_decay': decay} | ({mask: kernels} if mask in known else {})
  elif 'weight_decay' in known:
    options_['weight_decay'] = 0.0
  parts = [optax.clip_by_global_norm(clip)] if clip else []
  if decay and 'weight_decay' not in known:  # added to the gradient, as SGD has it
    parts.append(optax.add_decayed_weights(decay, kernels))
  last = [max_norm(norm_limit)] if norm_limit else []
  return optax.chain(*parts, make(learning_rate(peak, steps, **schedule), **options_), *last)


def max_norm(limit: float) -> optax.GradientTransformation:
  """Scales updates so that no unit's incoming weights have a norm above `limit` (max-norm, 1207.0580).

  A unit's weights are all axes but the last of an array of two axes or more.
  """

  def rescale(update, w):
    if jnp.ndim(w) < 2:
      return update
    new = w + update
    norm = jnp.sqrt(jnp.sum(new**2, tuple(range(new.ndim - 1)), keepdims=True))
    return new * jnp.minimum(1, limit / jnp.maximum(norm, 1e-12)) - w

  return optax.stateless(lambda updates, params: jax.tree.map(rescale, updates, params))
