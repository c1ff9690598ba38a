"""Several whole models side by side: the teachers of `ca_mkd`, `mean_logits` and `mean_probabilities`."""

from collections.abc import Mapping
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Len

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.nn.layers import mapped
from kdjax.options import Name
from kdjax.types import Module

TOWERS = ('image/embed', 'text/embed', 'logit_scale')
RESERVED = ('image', 'text')  # the prefixes of the ensemble's own taps


def mean(members):
  """The joint outputs of the members: `logits`, and the taps of two towers, each where all members have them.

  Args:
    members: the taps of each.
  """

  def every(*names):
    return all(name in member for member in members for name in names)

  outputs = {}
  if every('logits'):
    outputs['logits'] = sum(member['logits'] for member in members) / len(members)
  if every(*TOWERS):
    scales = jnp.exp(jnp.stack([taps.raise_precision(member['logit_scale']) for member in members]))
    shares = jnp.sqrt(scales / scales.sum())
    for name in TOWERS[:2]:
      units = [losses.unit(taps.raise_precision(member[name])) for member in members]
      outputs[name] = jnp.concatenate([share * x for share, x in zip(shares, units, strict=True)], -1)
    outputs['logit_scale'] = jnp.log(scales.mean())
    if every('logit_bias'):
      outputs['logit_bias'] = sum(member['logit_bias'] for member in members) / len(members)
  return outputs


class Ensemble(nn.Module):
  """Taps: every tap of every member as `<member>/<tap>`, and joint outputs by the mean of logits.

  `logits` [..., C] is the mean of the members' logits: their softmax is the normalised geometric mean of the
  members' probabilities (Hinton et al., 1503.02531, section 3), and `kd` of it is `mean_logits` of all. Of
  models with two towers `image/embed` and `text/embed` are the members' side by side, of length 1 each and
  weighed by their scales, so that exp(`logit_scale`) · cosine (+ `logit_bias`) is the mean of the members'.

  Each member learns from the labels as if it were alone: the loss of the task is the sum of the members' own,
  not that of their mean. They share the batches, and a norm that `clip` cuts is of all gradients together. A
  member may have an `init`, which brings its classifier too: an ensemble's members are whole models. With
  `init` and `frozen` in each, such as teachers of other workdirs, nothing is trained.

  Attributes:
    members: name -> a model.
    inputs: member -> model input -> input of the ensemble, as `teacher.inputs` has it; a member that is not
      named gets all inputs as they are.

  Raises:
    KdjaxError: for a member with an invalid name, and inputs of an unknown one.
  """

  WHOLE = True  # the members are whole models, each with its own classifier

  members: Annotated[Mapping[str, Module], Len(1)]
  inputs: Mapping[str, Mapping[str, Name]] | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    names, input_maps = sorted(self.members), self.inputs or {}
    for name in (*names, *input_maps):
      if not name.isidentifier() or name in RESERVED or name not in names:
        raise KdjaxError(
          f'ensemble has the member {name!r} in {"members" if name in names else "inputs"}: its members are '
          f'{", ".join(names)}, and a name is of letters, digits and "_", and none of {", ".join(RESERVED)}.'
        )
    all_taps = [
      dict(self.members[name](mapped(inputs, input_maps.get(name, {})), train=train)) for name in names
    ]
    outputs = {
      f'{name}/{k}': x
      for name, member_taps in zip(names, all_taps, strict=True)
      for k, x in member_taps.items()
    }
    return outputs | mean(all_taps)
