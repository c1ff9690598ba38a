"""Sum of word embeddings through one hidden layer: small, blind to the order of the words."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn.layers import Classifier, read
from kdjax.options import Size, Vocabulary


class BagOfWords(nn.Module):
  """Taps: `tokens` [B, L, D], `embed` [B, D], and optionally `logits` [B, C].

  Attributes:
    vocab_size: filled in from the tokenizer when left out.
    width: D.
    num_classes: None for an encoder without `logits`.
  """

  vocab_size: Vocabulary
  width: Size = 64
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    ids = read(inputs, 'text', 'BL')
    mask = inputs.get('text/mask', ids > 0)
    x = nn.Embed(self.vocab_size, self.width, name='words')(ids) * mask[..., None]
    taps = {'tokens': x}
    count = jnp.maximum(mask.sum(-1, keepdims=True), 1).astype(x.dtype)
    x = x.sum(1) / jnp.sqrt(count)
    taps['embed'] = nn.relu(nn.Dense(self.width, name='hidden')(x))
    return Classifier(self.num_classes, name='head')(taps)
