"""A model that points at one of an example's own candidates, such as the objects that a dialogue is about."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.layers import Block, feature_sequence, masked_mean
from kdjax.options import Depth, Name, Rate, Size
from kdjax.types import Module

NEVER = -1e9  # the logit of a candidate that is not there


class Pointer(nn.Module):
  """Taps: those of the text as `text/<tap>`, `candidates` [B, K, D], `embed` [B, D] and `logits` [B, K].

  The candidates '<candidates>' [B, K, F], which have no order, attend to each other and to the tokens of the
  text, and each gets a score: the classes are their places. '<candidates>/mask' [B, K] says which are there.
  A text that an example lacks ('text/present' 0) is attended to by none.

  Attributes:
    text: a model that gives `tokens` [B, L, D]; None for candidates alone.
    candidates: the input that they are.
    width: D.
    depth: layers, each of attention among candidates and over the text.
    heads: attention heads, a divisor of `width`.
    dropout: probability, after attention and after the MLPs.
    num_classes: K, filled in from the data; None for no `logits`.

  Raises:
    KdjaxError: if an example has another number of candidates than there are classes.
  """

  text: Module | None = None
  candidates: Name = 'candidates'
  width: Size = 64
  depth: Depth = 2
  heads: Size = 2
  dropout: Rate = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x, there = feature_sequence(inputs, self.candidates)
    x = nn.Dense(self.width, name='hidden')(nn.gelu(nn.Dense(self.width, name='project')(x)))
    taps, tokens, mask = {}, None, None
    if self.text is not None:
      taps = {f'text/{k}': y for k, y in self.text(inputs, train=train).items()}
      tokens = nn.Dense(self.width, name='project_text')(taps['text/tokens'])
      mask = inputs.get('text/mask', jnp.ones(tokens.shape[:2], bool))
      if (present := inputs.get('text/present')) is not None:
        mask = (mask > 0) & (present[:, None] > 0)
    for i in range(1, self.depth + 1):

      def block(name):
        return Block(self.heads, 2 * self.width, dropout=self.dropout, pre_norm=True, name=name)

      x, _ = block(f'among{i}')(x, there[:, None, None], train)
      if tokens is not None and mask is not None:
        x, _ = block(f'over_text{i}')(x, mask[:, None, None], train, tokens)
    taps['candidates'] = x = nn.LayerNorm(name='norm')(x)
    taps['embed'] = masked_mean(x, there)
    if self.num_classes:
      if x.shape[1] != self.num_classes:
        raise KdjaxError(
          f'pointer: {self.candidates!r} has {x.shape[1]} candidates, and the data have {self.num_classes} '
          'classes; a class is the place of a candidate.'
        )
      scores = nn.Dense(1, name='head')(x)[..., 0]
      taps['logits'] = jnp.where(there, scores, NEVER)
    return taps
