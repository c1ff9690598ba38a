"""GPT-2, a causal language model whose head is its word embedding (Radford et al., 2019)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.layers import Activation, Block, read
from kdjax.nn.taps import raise_precision
from kdjax.options import Depth, Eps, Rate, Size, Vocabulary
from kdjax.types import Array


def with_likelihood(taps: dict[str, Array], logits: Array, ids: Array) -> dict[str, Array]:
  """The taps with `logits` [B, L, V], and the `best` and the `likelihood` of the next tokens of `ids`."""
  log_p = jax.nn.log_softmax(raise_precision(logits[:, :-1]))
  likelihood = jnp.take_along_axis(log_p, ids[:, 1:, None], -1)[..., 0]
  best = jnp.argmax(logits, -1).astype(jnp.int32)
  return taps | {'logits': logits, 'best': best, 'likelihood': jnp.pad(likelihood, ((0, 0), (0, 1)))}


class Gpt2(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L],
  `embed` [B, D], `logits` [B, L, V], `best` i32 [B, L] and `likelihood` f32 [B, L]; `words` [1, rows, D] and
  `head` [1, V, D], the weights of the word embedding and of the head.

  The attentions are scores before the mask and the softmax; `tokens` come out of the last norm, and
  `embed` is the last of them that is valid. The logits at a position are those of the next token, `best`
  is the likeliest, and `likelihood` log p of the one that the text has there, 0 at the end.
  Texts are padded on the right. Deviation from the paper: no dropout of attention weights. The
  defaults are those of the smallest, 124 M parameters.

  For decoding, the input 'text/at' i32 [B, L] has the positions of the tokens, and 'text/cache' the `cache`
  of the call before; the first call makes one for 'text/room' [B, M], where M is the longest text to come.
  The taps are then `cache` and the `logits` [B, V] after the last valid token.

  Attributes:
    vocab_size: rows of the word embedding, V unless `tokens` is less; filled in from the tokenizer when
      left out.
    tokens: V, the tokens of the tokenizer, filled in from it; published embeddings may be padded with rows
      of no token, which get no logits. None for all rows.
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer.
    positions: the longest text.
    act: activation of the MLP.
    eps: of the layer norms.
    dropout: probability, after the embeddings, after attention and after the MLP.
  """

  vocab_size: Vocabulary
  width: Size = 768
  depth: Depth = 12
  heads: Size = 12
  mlp: Size = 3072
  positions: Size = 1024
  act: Activation = 'gelu_new'
  eps: Eps = 1e-5
  dropout: Rate = 0.0
  tokens: Vocabulary | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    ids, positions = read(inputs, 'text', 'BL'), inputs.get('text/at')
    b, length = ids.shape
    cache = None if positions is None else inputs.get('text/cache') or self.empty(inputs['text/room'])
    room = length if cache is None else cache[0][0].shape[1]
    if room > self.positions:
      raise KdjaxError(
        f'a text of {room} tokens is longer than the {self.positions} positions of the model: set '
        f'data.text_length to {self.positions} or less.'
      )
    mask = inputs.get('text/mask', jnp.ones_like(ids))
    if positions is None:
      causal_mask = jnp.tril(jnp.ones((length, length), bool)) & (mask[:, None, None] > 0)
    else:  # later positions of the cache are not written yet
      causal_mask = (jnp.arange(room) <= positions[..., None])[:, None]
    wte = nn.Embed(self.vocab_size, self.width, embedding_init=nn.initializers.normal(0.02), name='words')
    wpe = nn.Embed(self.positions, self.width, name='positions')
    x = wte(ids) + wpe(jnp.arange(length) if positions is None else positions)
    taps = {'embeddings': x}
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    new_cache = []
    for i in range(1, self.depth + 1):
      block = Block(self.heads, self.mlp, self.eps, self.act, self.dropout, pre_norm=True, name=f'block{i}')
      x, extra = block(x, causal_mask, train, cache=None if cache is None else cache[i - 1], at=positions)
      new_cache.append(extra)
      taps |= {f'block{i}': x} | ({} if cache else {f'attention{i}': extra})
    taps['tokens'] = x = nn.LayerNorm(self.eps, name='norm')(x)
    last = jnp.max(jnp.where(mask > 0, jnp.arange(length), 0), 1)
    taps['embed'] = jnp.take_along_axis(x, last[:, None, None], 1)[:, 0]
    if cache is not None:
      return {'cache': tuple(new_cache), 'logits': wte.attend(taps['embed'])[..., : self.tokens]}
    taps |= {'words': wte.embedding[None], 'head': wte.embedding[None, : self.tokens]}
    return with_likelihood(taps, wte.attend(x)[..., : self.tokens], ids)

  def empty(self, room):
    """A cache for texts of up to M tokens: keys and values of every block."""
    zeros = jnp.zeros((*room.shape, self.width), room.dtype)
    return ((zeros, zeros),) * self.depth
