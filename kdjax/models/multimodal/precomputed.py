"""The outputs of a teacher that were computed elsewhere, `teacher.outputs`: they come with the batch."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError

PREFIX = 'teacher/'  # of their keys in a batch


class Precomputed(nn.Module):
  """Returns the arrays of the batch under 'teacher/' as taps; its one weight is not used."""

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    self.param('none', lambda key: jnp.zeros(1))  # a model has weights, whose first axis counts the seeds
    taps = {k.removeprefix(PREFIX): x for k, x in inputs.items() if k.startswith(PREFIX)}
    if not taps:
      raise KdjaxError(
        "this split has no outputs of the teacher: name it in teacher.outputs, '<split>/logits'."
      )
    return taps
