"""Late fusion: one encoder a modality, projected to one width and joined, then an MLP."""

from collections.abc import Mapping
from typing import Annotated, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Len

from kdjax.errors import KdjaxError
from kdjax.options import Rate, Size
from kdjax.types import Module


class Fusion(nn.Module):
  """Taps: every tap of every encoder as `<modality>/<tap>`, `joint`, `embed` [B, D], `logits`.

  A modality that an example lacks (`<modality>/present` 0) adds nothing to a sum and multiplies
  a product by one. Its encoder reads it all the same, for the statistics of its batch norms.

  Attributes:
    encoders: modality -> a module that gives `embed`.
    width: D.
    join: 'product' (elementwise, as in early VQA models), 'sum' or 'concat'.
    dropout: probability, before the last layer.
    num_classes: C.
  """

  IGNORES_ABSENT = True  # whatever the values are, in training too

  encoders: Annotated[Mapping[str, Module], Len(1)]
  width: Size = 256
  join: Literal['product', 'sum', 'concat'] = 'product'
  dropout: Rate = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    taps, parts = {}, []
    neutral = 1.0 if self.join == 'product' else 0.0
    for name, encoder in sorted(self.encoders.items()):
      encoded = encoder(inputs, train=train)
      taps |= {f'{name}/{tap}': x for tap, x in encoded.items()}
      x = nn.Dense(self.width, name=f'project_{name}')(encoded['embed'])
      if (present := inputs.get(f'{name}/present')) is not None:
        x = jnp.where(present[:, None] > 0, x, neutral)
      parts.append(x)
    if self.join == 'concat':
      joint = jnp.concatenate(parts, -1)
    elif self.join in ('product', 'sum'):
      joint = jax.tree.reduce(jnp.multiply if self.join == 'product' else jnp.add, parts)
    else:
      raise KdjaxError(f"fusion.join is {self.join!r}; choose 'product', 'sum' or 'concat'.")
    taps['joint'] = joint
    x = nn.relu(nn.Dense(self.width, name='hidden')(joint))
    taps['embed'] = x
    if self.num_classes:
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
      taps['logits'] = nn.Dense(self.num_classes, name='head')(x)
    return taps
