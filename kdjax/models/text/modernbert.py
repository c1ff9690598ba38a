"""ModernBERT, a pre-norm encoder with rotary positions and windows (Warner et al., 2412.13663)."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.models.text.llama import frequencies, rotated
from kdjax.nn.layers import Activation, Classifier, activation, masked_mean, read
from kdjax.options import Depth, Eps, Rate, Size, Theta, Vocabulary

Pool = Literal['mean', 'first', 'mean_dense', 'first_dense']


class RotaryBlock(nn.Module):
  """Attention with rotary positions and a gated MLP over [B, L, D], without biases."""

  heads: int
  mlp: int
  eps: float
  act: str
  dropout: float
  first: bool

  @nn.compact
  def __call__(self, x, angles, mask, train):
    b, length, width = x.shape
    norm1, norm2 = (nn.LayerNorm(self.eps, use_bias=False, name=name) for name in ('norm1', 'norm2'))
    drop = nn.Dropout(self.dropout, deterministic=not train)
    y = x if self.first else norm1(x)  # the embeddings have a norm already
    q, k, v = (
      nn.Dense(width, False, name=name)(y).reshape(b, length, self.heads, -1)
      for name in ('query', 'key', 'value')
    )
    scores = jnp.einsum('bqhd,bkhd->bhqk', rotated(q, angles), rotated(k, angles))
    scores /= jnp.sqrt(q.shape[-1]).astype(x.dtype)
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
    y = jnp.einsum('bhqk,bkhd->bqhd', weights, v).reshape(x.shape)
    x += drop(nn.Dense(width, False, name='out')(y))
    y = norm2(x)
    gate = activation(self.act)(nn.Dense(self.mlp, False, name='mlp_gate')(y))
    y = nn.Dense(width, False, name='mlp_out')(gate * nn.Dense(self.mlp, False, name='mlp_in')(y))
    return x + drop(y), scores


class Modernbert(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L],
  `embed` [B, D], and optionally `logits` [B, C].

  The attentions are scores before the mask and the softmax; `tokens` come out of the last norm. Deviation:
  padding is masked, not left out of the batch. The defaults are those of ModernBERT-base.

  Attributes:
    vocab_size: filled in from the tokenizer when left out.
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer, which is gated.
    positions: the longest text.
    window: tokens to either side that a token attends to in most blocks.
    full_every: the first block and every block of that number after it attend to all tokens.
    theta, local_theta: base of the wavelengths of the positions, in these blocks and in those with a window.
    act: activation of the gate.
    eps: of the norms.
    dropout: probability, after the embeddings, after attention and after the MLP.
    pool: what `embed` is: the 'mean' over the valid positions, or the 'first', or either through a dense
      layer, GELU and a norm, as published classifiers read them.
    normalise: whether `embed` is scaled to length 1, as sentence encoders do.
    num_classes: None for an encoder without `logits`.
  """

  vocab_size: Vocabulary
  width: Size = 768
  depth: Depth = 22
  heads: Size = 12
  mlp: Size = 1152
  positions: Size = 8192
  window: Size = 64
  full_every: Size = 3
  theta: Theta = 160_000.0
  local_theta: Theta = 10_000.0
  act: Activation = 'gelu'
  eps: Eps = 1e-5
  dropout: Rate = 0.0
  pool: Pool = 'mean'
  normalise: bool = False
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    ids = read(inputs, 'text', 'BL')
    mask, length = inputs.get('text/mask', jnp.ones_like(ids)) > 0, ids.shape[1]
    if length > self.positions:
      raise KdjaxError(
        f'a text of {length} tokens is longer than the {self.positions} positions of the model: set '
        f'data.text_length to {self.positions} or less.'
      )
    if self.pool not in get_args(Pool):
      raise unknown('pool of the model modernbert', self.pool, get_args(Pool))
    if self.width % self.heads or (head := self.width // self.heads) % 2:
      raise KdjaxError(
        f'modernbert has {self.heads} heads and width {self.width}: a head needs an even number of features.'
      )
    x = nn.Embed(self.vocab_size, self.width, name='words')(ids)
    x = nn.LayerNorm(self.eps, use_bias=False, name='norm_in')(x)
    taps = {'embeddings': x}
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    place = jnp.arange(length)
    near = mask[:, None, None] & (jnp.abs(place[:, None] - place) <= self.window)
    for i in range(1, self.depth + 1):
      full = (i - 1) % self.full_every == 0
      angles = place[None, :, None] * jnp.asarray(
        frequencies(head, self.theta if full else self.local_theta), jnp.float32
      )
      block = RotaryBlock(self.heads, self.mlp, self.eps, self.act, self.dropout, i == 1, name=f'block{i}')
      x, taps[f'attention{i}'] = block(x, angles, mask[:, None, None] if full else near, train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = nn.LayerNorm(self.eps, use_bias=False, name='norm')(x)
    x = masked_mean(x, mask) if self.pool.startswith('mean') else x[:, 0]
    if self.pool.endswith('dense'):
      x = activation('gelu')(nn.Dense(self.width, False, name='pooler')(x))
      x = nn.LayerNorm(self.eps, use_bias=False, name='pooler_norm')(x)
    if self.normalise:
      x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    taps['embed'] = x
    return Classifier(self.num_classes, name='head')(taps)
