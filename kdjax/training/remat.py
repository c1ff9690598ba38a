"""Rematerialisation: activations are computed again in the backward pass, for less memory."""

import re

import flax.linen as nn

from kdjax.types import Model

BLOCK = re.compile(r'block\d+$')  # in the name of a module


def remat(model: Model) -> Model:
  """The model with `nn.remat` on its blocks: of each only the input is stored for the backward pass.

  A block is a Flax module whose name ends in 'block' and a number. Results are the same up to rounding.
  XLA:CPU merges the two forward passes again, and saves nothing.
  """

  def block(call, args, kwargs, context):
    if context.method_name != '__call__' or not BLOCK.search(context.module.name or ''):
      return call(*args, **kwargs)
    method, (x, *others) = context.orig_method.func, args
    return nn.remat(lambda module, x: method(module, x, *others, **kwargs))(context.module, x)

  def apply(variables, batch, *, train=False, rng=None):
    if not train:
      return model.apply(variables, batch)
    with nn.intercept_methods(block):
      return model.apply(variables, batch, train=True, rng=rng)

  return Model(model.init, apply)
