"""GPT-2, a causal language model whose head is its word embedding (Radford et al., 2019)."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.layers import Block, read


class Gpt2(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L],
  `embed` [B, D] and `logits` [B, L, V].

  The attentions are scores before the mask and the softmax; `tokens` come out of the last norm, and
  `embed` is the last of them that is valid. The logits at a position are those of the next token.
  Texts are padded on the right. Deviation from the paper: no dropout of attention weights. The
  defaults are those of the smallest, 124 M parameters.

  Attributes:
    vocab_size: V, filled in from the tokenizer when left out.
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer.
    positions: the longest text.
    act: activation of the MLP.
    eps: of the layer norms.
    dropout: probability, after the embeddings, after attention and after the MLP.
  """

  vocab_size: int
  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp: int = 3072
  positions: int = 1024
  act: str = 'gelu_new'
  eps: float = 1e-5
  dropout: float = 0.0

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    ids = read(inputs, 'text')
    length = ids.shape[1]
    if length > self.positions:
      raise KdjaxError(
        f'a text of {length} tokens is longer than the {self.positions} positions of the model: set '
        f'data.text_length to {self.positions} or less.'
      )
    mask = inputs.get('text/mask', jnp.ones_like(ids))
    seen = jnp.tril(jnp.ones((length, length), bool)) & (mask[:, None, None] > 0)
    words = nn.Embed(self.vocab_size, self.width, embedding_init=nn.initializers.normal(0.02), name='words')
    x = words(ids) + nn.Embed(self.positions, self.width, name='positions')(jnp.arange(length))
    taps = {'embeddings': x}
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    for i in range(1, self.depth + 1):
      block = Block(self.heads, self.mlp, self.eps, self.act, self.dropout, pre_norm=True, name=f'block{i}')
      x, taps[f'attention{i}'] = block(x, seen, train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = nn.LayerNorm(self.eps, name='norm')(x)
    last = jnp.max(jnp.where(mask > 0, jnp.arange(length), 0), 1)
    taps['embed'] = jnp.take_along_axis(x, last[:, None, None], 1)[:, 0]
    return taps | {'logits': words.attend(x)}
