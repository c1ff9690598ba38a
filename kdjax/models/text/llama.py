"""Decoders of the Llama family: Llama, SmolLM, Mistral, Qwen2, Qwen3, Gemma (Touvron et al., 2302.13971)."""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.models.text.gpt2 import with_likelihood
from kdjax.nn.layers import Activation, activation, read
from kdjax.options import Depth, Eps, NoOrSize, Positive, Rate, Size, Theta, Vocabulary
from kdjax.types import Array

Bias = Literal['', 'qkv', 'all']


def frequencies(width: int, theta: float, scaling: tuple[float, ...] = ()) -> np.ndarray:
  """f64 [width / 2]: radians a position of each pair of a head's features (RoFormer, 2104.09864).

  Args:
    width: of a head.
    theta: the wavelengths are 2π to almost 2π · theta.
    scaling: () for none; (factor,) divides all by it; (factor, low, high, length), as Llama 3.1 has it, those
      of less than `low` turns within `length` positions, and those of up to `high` turns in part.
  """
  rates = theta ** (-np.arange(0, width, 2) / width)
  if len(scaling) < 2:
    return rates / (scaling[0] if scaling else 1)
  factor, low, high, length = scaling
  turns = length * rates / (2 * math.pi)
  kept = np.clip((turns - low) / (high - low), 0, 1)
  return rates * (kept + (1 - kept) / factor)


def rotated(x: Array, angles: Array) -> Array:
  """Features [B, L, N, d], the first half turned with the second by `angles` [B, L, d / 2]."""
  one, two = jnp.split(x, 2, -1)
  cos, sin = (f(angles)[:, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
  return jnp.concatenate([one * cos - two * sin, two * cos + one * sin], -1)


class GroupedAttention(nn.Module):
  """Attention of [B, L, D] over itself with rotary positions, heads in groups of one key and value each.

  The scores that it returns are [B, heads, L, M], what the softmax gets but for the mask. With a cache it is
  as `kdjax.nn.layers.Attention`; the keys in it are rotated.
  """

  heads: int
  groups: int
  head_width: int
  bias: str
  query_norm: bool
  scale: float
  cap: float | None
  eps: float

  @nn.compact
  def __call__(self, x, angles, mask, cache=None, at=None) -> tuple[Array, Any]:
    b, length, width = x.shape
    parts = {'query': self.heads, 'key': self.groups, 'value': self.groups}
    q, k, v = (nn.Dense(n * self.head_width, bool(self.bias), name=name)(x) for name, n in parts.items())
    q, k = (y.reshape(b, length, -1, self.head_width) for y in (q, k))
    if self.query_norm:
      q, k = (nn.RMSNorm(self.eps, name=f'{name}_norm')(y) for name, y in (('query', q), ('key', k)))
    q, k = rotated(q, angles), rotated(k, angles).reshape(v.shape)
    if cache is not None:
      put = jax.vmap(lambda row, i, new: row.at[i].set(new))
      k, v = (put(old, at, new.astype(old.dtype)) for old, new in zip(cache, (k, v), strict=True))
    q = q.reshape(b, length, self.groups, -1, self.head_width)
    keys, values = (y.reshape(b, y.shape[1], self.groups, self.head_width) for y in (k, v))
    scores = jnp.einsum('bqgrd,bkgd->bgrqk', q, keys) * jnp.asarray(self.scale, q.dtype)
    scores = scores.reshape(b, self.heads, length, -1)
    scores = jnp.tanh(scores / self.cap) * self.cap if self.cap else scores
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
    weights = weights.reshape(b, self.groups, -1, *weights.shape[2:])
    y = jnp.einsum('bgrqk,bkgd->bqgrd', weights, values).reshape(b, length, -1)
    y = nn.Dense(width, self.bias == 'all', name='out')(y)
    return y, scores if cache is None else (k, v)


class Llama(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L],
  `embed` [B, D], `logits` [B, L, V], `best` i32 [B, L] and `likelihood` f32 [B, L]; `words` [1, rows, D] and
  `head` [1, V, D].

  They are those of the model `gpt2`, and so is the way it goes on with a text. The attentions are scores
  before the mask and the softmax. Texts are padded on the right. Where 'text/vectors/mask' [B, L] is set,
  'text/vectors' [B, L, D] stand in the place of the words. The defaults are those of SmolLM-135M.

  Attributes:
    vocab_size: rows of the word embedding, V unless `tokens` is less; filled in from the tokenizer when
      left out.
    tokens: V, the tokens of the tokenizer, filled in from it; None for all rows.
    width: D.
    depth: blocks.
    heads: attention heads.
    groups: keys and values, a divisor of `heads`.
    head_width: of each head, even; None for D / heads.
    mlp: width of a block's hidden layer, which is gated.
    positions: the longest text.
    act: activation of the gate.
    eps: of the norms, which have no mean.
    theta: base of the wavelengths of the positions.
    scaling: of the positions, as `frequencies` takes it.
    bias: '' for dense layers without one, 'qkv' for one in queries, keys and values (Qwen2), 'all' for one in
      the attention's output too.
    query_norm: whether queries and keys are normalised, as in Qwen3.
    scale: s where queries are divided by √s; None for `head_width`.
    cap, last_cap: c where scores, and logits, are c tanh(x / c), as in Gemma 2; None for neither.
    sandwich: whether attention and MLP have a norm behind them too, as from Gemma 2 on.
    scaled_words: whether word embeddings are multiplied by √D, as in Gemma.
    window: positions that a token attends to, its own included; None for all.
    full_every: every block of that number attends to all positions, in spite of `window`; 0 for none.
    local_theta: `theta` of the blocks with a window, which have no scaling then; None for the same of both.
    tied: whether the word embedding is the head.
    dropout: probability, after the embeddings, after attention and after the MLP.
  """

  vocab_size: Vocabulary
  width: Size = 576
  depth: Depth = 30
  heads: Size = 9
  groups: Size = 3
  head_width: Size | None = None
  mlp: Size = 1536
  positions: Size = 2048
  act: Activation = 'silu'
  eps: Eps = 1e-5
  theta: Theta = 1e4
  scaling: tuple[()] | tuple[Positive] | tuple[Positive, Positive, Positive, Positive] = ()
  bias: Bias = ''
  query_norm: bool = False
  scale: Positive | None = None
  cap: Positive | None = None
  last_cap: Positive | None = None
  sandwich: bool = False
  scaled_words: bool = False
  window: Size | None = None
  full_every: NoOrSize = 0
  local_theta: Theta | None = None
  tied: bool = True
  dropout: Rate = 0.0
  tokens: Vocabulary | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    ids, at = read(inputs, 'text', 'BL'), inputs.get('text/at')
    length, head_width = ids.shape[1], self.head_width or self.width // self.heads
    if self.heads % self.groups or head_width % 2 or not (self.head_width or self.width % self.heads == 0):
      raise KdjaxError(
        f'llama has {self.heads} heads of {head_width} features in {self.groups} groups, and width '
        f'{self.width}: heads have to divide into groups, and a head to have an even number of features.'
      )
    cache = None if at is None else inputs.get('text/cache') or self.empty(inputs['text/room'])
    room = length if cache is None else cache[0][0].shape[1]
    if room > self.positions:
      raise KdjaxError(
        f'a text of {room} tokens is longer than the {self.positions} positions of the model: set '
        f'data.text_length to {self.positions} or less.'
      )
    mask = inputs.get('text/mask', jnp.ones_like(ids))
    places = jnp.arange(length)[None] if at is None else at
    behind = places[:, :, None] - jnp.arange(room)  # how far each position of the cache lies back
    causal = (behind >= 0)[:, None]
    if at is None:
      causal &= mask[:, None, None] > 0
    nearby = causal & (behind < self.window)[:, None] if self.window else causal
    words = nn.Embed(self.vocab_size, self.width, embedding_init=nn.initializers.normal(0.02), name='words')
    x = words(ids)
    x *= jnp.asarray(math.sqrt(self.width), x.dtype) if self.scaled_words else 1
    if (vectors := inputs.get('text/vectors')) is not None:
      x = jnp.where(inputs['text/vectors/mask'][..., None], vectors.astype(x.dtype), x)
    taps, new_cache = {'embeddings': x}, []
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    for i in range(1, self.depth + 1):
      local = self.window is not None and not (self.full_every and i % self.full_every == 0)
      theta, scaling = (self.local_theta, ()) if local and self.local_theta else (self.theta, self.scaling)
      rates = jnp.asarray(frequencies(head_width, theta, tuple(scaling)), jnp.float32)
      call = (places[..., None] * rates, nearby if local else causal)
      x, extra = self.block(f'block{i}', x, train, *call, None if cache is None else cache[i - 1], at)
      new_cache.append(extra)
      taps |= {f'block{i}': x} | ({} if cache else {f'attention{i}': extra})
    taps['tokens'] = x = nn.RMSNorm(self.eps, name='norm')(x)
    last = jnp.max(jnp.where(mask > 0, jnp.arange(length), 0), 1)
    taps['embed'] = jnp.take_along_axis(x, last[:, None, None], 1)[:, 0]
    dense = None if self.tied else nn.Dense(self.vocab_size, False, name='unembed')
    logits = (dense or words.attend)(x if cache is None else taps['embed'])[..., : self.tokens]
    logits = jnp.tanh(logits / self.last_cap) * self.last_cap if self.last_cap else logits
    if cache is not None:
      return {'cache': tuple(new_cache), 'logits': logits}
    head = words.embedding if dense is None else dense.variables['params']['kernel'].T
    taps |= {'words': words.embedding[None], 'head': head[None, : self.tokens]}
    return with_likelihood(taps, logits, ids)

  def block(self, name, x, train, angles, mask, cache, at):
    """A pre-norm layer."""
    return LlamaBlock(
      self.heads,
      self.groups,
      self.head_width or self.width // self.heads,
      self.mlp,
      self.act,
      self.eps,
      self.bias,
      self.query_norm,
      self.scale,
      self.cap,
      self.sandwich,
      self.dropout,
      name=name,
    )(x, train, angles, mask, cache, at)

  def empty(self, room):
    """A cache for texts of up to M tokens: keys and values of every block."""
    width = self.groups * (self.head_width or self.width // self.heads)
    zeros = jnp.zeros((*room.shape, width), room.dtype)
    return ((zeros, zeros),) * self.depth


class LlamaBlock(nn.Module):
  """Grouped attention and a gated MLP over [B, L, D], each after a norm, and optionally before one."""

  heads: int
  groups: int
  head_width: int
  mlp: int
  act: str
  eps: float
  bias: str
  query_norm: bool
  scale: float | None
  cap: float | None
  sandwich: bool
  dropout: float

  @nn.compact
  def __call__(self, x, train, angles, mask, cache, at):
    drop, scale = nn.Dropout(self.dropout, deterministic=not train), (self.scale or self.head_width) ** -0.5
    after = (lambda y, i: nn.RMSNorm(self.eps, name=f'after{i}')(y)) if self.sandwich else (lambda y, i: y)
    sizes = self.heads, self.groups, self.head_width, self.bias, self.query_norm
    attention = GroupedAttention(*sizes, scale, self.cap, self.eps, name='attention')
    y, extra = attention(nn.RMSNorm(self.eps, name='norm1')(x), angles, mask, cache, at)
    x += drop(after(y, 1))
    y = nn.RMSNorm(self.eps, name='norm2')(x)
    gate = activation(self.act)(nn.Dense(self.mlp, False, name='mlp_gate')(y))
    y = nn.Dense(x.shape[-1], False, name='mlp_out')(gate * nn.Dense(self.mlp, False, name='mlp_in')(y))
    return x + drop(after(y, 2)), extra
