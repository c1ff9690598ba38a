"""Quantisation-aware training: a model computes with rounded weights and activations, and learns with them.

The rounding is that of integer runtimes: weights symmetric with a scale for each channel, activations with a
range for each example, that of its values and 0. Gradients pass it unchanged (straight-through, Bengio et
al., 1308.3432; Jacob et al., 1712.05877).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.training.quantize import CHANNELS, channel_scale
from kdjax.types import Array, Model

LAYERS = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvTranspose, nn.Einsum)  # whose input is rounded


def model(base: Model, weight_bits: int = 0, activation_bits: int = 0) -> Model:
  """The model with rounding; 0 bits round nothing. Its variables stay in float.

  Activations are rounded where they enter the Linen layers of `LAYERS`.
  """
  if not weight_bits and not activation_bits:
    return base

  def apply(variables, batch, **how):
    rounded = weights(variables, weight_bits)
    if not activation_bits:
      return base.apply(rounded, batch, **how)
    with nn.intercept_methods(_rounded_input(activation_bits)):
      return base.apply(rounded, batch, **how)

  return base._replace(apply=apply)


def weights(variables: Mapping, bits: int) -> Mapping:
  """Variables with kernels and embeddings rounded to `bits`, from -(2^(bits-1) - 1) to 2^(bits-1) - 1 times a
  scale for each channel (an output of a kernel, a token's embedding). 0 bits leave them."""
  if not bits:
    return variables

  def rounded(path, x):
    axis = CHANNELS.get(path[-1].key)
    return x if axis is None else _straight_through(x, _symmetric(x, axis, bits))

  return {**variables, 'params': jax.tree_util.tree_map_with_path(rounded, variables['params'])}


def _symmetric(x: Array, axis: int, bits: int) -> Array:
  scale = channel_scale(x, axis, 2 ** (bits - 1) - 1, jnp)
  return jnp.round(x / scale) * scale


def activations(x: Array, bits: int) -> Array:
  """Activations [B, ...] rounded to 2^bits values from the smallest to the largest of each example and 0."""
  axes = tuple(range(1, x.ndim))
  low, high = jnp.minimum(x.min(axes, keepdims=True), 0), jnp.maximum(x.max(axes, keepdims=True), 0)
  scale = jnp.where(high > low, (high - low) / (2**bits - 1), 1)
  zero = jnp.round(-low / scale)
  levels = jnp.clip(jnp.round(x / scale) + zero, 0, 2**bits - 1)
  return _straight_through(x, (levels - zero) * scale)


def _straight_through(x: Array, rounded: Array) -> Array:
  """`rounded`, with the gradient of x."""
  return x + jax.lax.stop_gradient(rounded - x)


def _rounded_input(bits: int) -> Any:
  def interceptor(call, args, kwargs, context):
    inside = context.method_name == '__call__' and isinstance(context.module, LAYERS)
    if inside and args and jnp.issubdtype(args[0].dtype, jnp.floating) and args[0].ndim > 1:
      args = (activations(args[0], bits), *args[1:])
    return call(*args, **kwargs)

  return interceptor
