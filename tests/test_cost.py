"""What a model costs does not depend on how its convolutions are computed."""

import jax.numpy as jnp
from jax import lax

from kdjax.evaluation import cost
from kdjax.nn import conv


def test_flops_are_those_of_the_convolution_as_it_is_defined():
  x, w = jnp.ones((16, 8, 8, 64)), jnp.ones((3, 3, 64, 64))

  def flops(convolve):
    return cost.flops(lambda x, w: convolve(x, w, (1, 1), 'VALID', dimension_numbers=conv.NHWC), x, w)

  assert flops(conv.conv_general_dilated) == flops(lax.conv_general_dilated) == 2 * w.size * 16 * 6 * 6


def test_flops_of_what_has_none():
  assert cost.flops(lambda x: x, jnp.ones(3)) is None
