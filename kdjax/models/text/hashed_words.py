"""Bag of words with a small embedding table: hash embeddings (Svenstrup et al., 1709.03933)."""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.nn.layers import Classifier, read
from kdjax.options import Rate, Size, Vocabulary

# Odd numbers that spread the ids, one a hash: the fraction of φ and others of no pattern, 32 bits.
ODD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)


def buckets(ids, count: int, which: int):
  """A bucket below `count` for each id, another one for each `which`, of 0 to 3."""
  mixed = (ids.astype(jnp.uint32) + which + 1) * jnp.uint32(ODD[which])
  mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(ODD[(which + 1) % len(ODD)])
  return ((mixed ^ (mixed >> 13)) % count).astype(jnp.int32)


class HashedWords(nn.Module):
  """Taps: `tokens` [B, L, D], `embed` [B, D], and optionally `logits` [B, C].

  A word is the sum of two rows of one table, so that two words are seldom the same although the table is
  far shorter than the vocabulary; its size does not depend on the vocabulary. Pairs of neighbours are
  embedded too, as in fastText (1607.01759). Deviation from hash embeddings: no weight a word and hash, which
  would need a table as long as the vocabulary.

  `tokens` has the words alone, without the pairs.

  Attributes:
    buckets: rows of the table.
    width: D.
    hashes: rows that a word sums, up to 4.
    pairs: whether neighbouring words are embedded too.
    dropout: probability, of whole words.
    num_classes: None for an encoder without `logits`.
  """

  buckets: Vocabulary = 4096
  width: Size = 64
  hashes: Annotated[int, Interval(ge=1, le=4)] = 2
  pairs: bool = True
  dropout: Rate = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    ids = read(inputs, 'text', 'BL')
    mask = inputs.get('text/mask', ids > 0)
    table = nn.Embed(self.buckets, self.width, name='words')
    if self.pairs:
      ids = jnp.concatenate([ids, ids[:, :-1] * 65537 + ids[:, 1:]], 1)
      mask = jnp.concatenate([mask, mask[:, :-1] * mask[:, 1:]], 1)
    x = sum(table(buckets(ids, self.buckets, i)) for i in range(self.hashes)) * mask[..., None]
    taps = {'tokens': x[:, : inputs['text'].shape[1]]}
    x = nn.Dropout(self.dropout, broadcast_dims=(2,), deterministic=not train)(x)
    x = x.sum(1) / jnp.sqrt(jnp.maximum(mask.sum(-1, keepdims=True), 1).astype(x.dtype))
    taps['embed'] = x + nn.Dense(self.width, name='hidden')(nn.relu(x))
    return Classifier(self.num_classes, name='head')(taps)
