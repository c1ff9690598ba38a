"""A decoder that writes about an image, whose tokens come before the text or are attended to in layers."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.models.text.gpt2 import with_likelihood
from kdjax.nn.layers import FEATURES, Block, feature_sequence, image_scores, read
from kdjax.options import Depth, Name, Rate, Size, Vocabulary
from kdjax.types import Array, Module


def image_tokens(taps) -> Array:
  """`tokens` [B, P, F] of an encoder's taps; of a CNN the places of its last stage, without either `embed`.

  Raises:
    KdjaxError: for an encoder that has none of them.
  """
  if 'tokens' in taps:
    return taps['tokens']
  if stages := sorted((int(k[5:]), k) for k in taps if k.startswith('stage') and k[5:].isdigit()):
    x = taps[stages[-1][1]]
    return x.reshape(len(x), -1, x.shape[-1])
  if 'embed' not in taps:
    raise KdjaxError(
      f"captioner.encoder gives {', '.join(taps)}; it needs 'tokens', 'stage1' ... or 'embed'."
    )
  return taps['embed'][:, None]


class Captioner(nn.Module):
  """Taps: `memory` [B, P, D], the image's tokens, `block1` ... and `tokens` [B, L, D], `embed` [B, D],
  `logits` [B, L, V], `best` i32 [B, L] and `likelihood` f32 [B, L], the last four as those of `gpt2`;
  `image_attention1`, what the text attends to in the image in the first layer, scores before the softmax
  [B, heads, L, P], or with join 'prefix' [B, heads, L, P + 1] as `nn.layers.image_scores` has them, and with
  join 'prefix' `image_logits` [B, P, V], the scores of words at the places of the image.

  The places of the image, and its `embed` as one more, are projected to D. With join 'prefix' they stand
  before the text (a prefix language model: the image sees all of itself, a token the image and the tokens
  before it); with 'cross' each layer of the text is followed by one that attends to them (Vaswani et al.,
  1706.03762). The head is the word embedding. Texts are padded on the right. An image that an example lacks
  ('image/present' 0) is all zeros.

  What the encoder gives may come with the batch, 'image/features' [B, P, F] and 'image/features/embed'
  [B, E], computed once where it is frozen: see `experiment.features`. Decoding takes 'text/at' and
  'text/cache' as `gpt2` does.

  Attributes:
    vocab_size: rows of the word embedding, V unless `tokens` is less; filled in from the tokenizer.
    tokens: V, as in `gpt2`.
    encoder: a model of images with `tokens`, `stage1` ... or `embed`; None for vectors that the data have.
    image: the input that it reads, or without an encoder the vectors [B, P, F] themselves.
    join: 'prefix' or 'cross'.
    width: D.
    depth: layers; with 'cross', of either kind.
    heads: attention heads, a divisor of `width`.
    mlp: width of a layer's hidden layer, in multiples of `width`.
    positions: the longest text.
    dropout: probability, of the image's tokens, of the words, after attention and after the MLPs.
  """

  vocab_size: Vocabulary
  encoder: Module | None = None
  image: Name = 'image'
  join: Literal['prefix', 'cross'] = 'prefix'
  width: Size = 128
  depth: Depth = 2
  heads: Size = 4
  mlp: Size = 4
  positions: Size = 64
  dropout: Rate = 0.0
  tokens: Vocabulary | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    ids, positions = read(inputs, 'text', 'BL'), inputs.get('text/at')
    if self.join not in ('prefix', 'cross'):
      raise KdjaxError(f"captioner.join is {self.join!r}; choose 'prefix' or 'cross'.")
    b, length = ids.shape
    prefix, drop = self.join == 'prefix', nn.Dropout(self.dropout, deterministic=not train)
    cache = inputs.get('text/cache')
    memory = self.memory(inputs, train) if cache is None else cache['memory']
    first = memory.shape[1] if prefix else 0  # places before the text
    if cache is None and positions is not None:
      zeros = jnp.zeros((b, first + inputs['text/room'].shape[1], self.width), memory.dtype)
      cache = {'blocks': ((zeros, zeros),) * self.depth}
    room = length if cache is None else cache['blocks'][0][0].shape[1] - first
    if room > self.positions:
      raise KdjaxError(
        f'a text of {room} tokens is longer than the {self.positions} positions of the model: set '
        f'data.text_length to {self.positions} or less, or positions to {room}.'
      )
    mask = inputs.get('text/mask', jnp.ones_like(ids)) > 0
    wte = nn.Embed(self.vocab_size, self.width, embedding_init=nn.initializers.normal(0.02), name='words')
    wpe = nn.Embed(self.positions, self.width, name='positions')
    at = jnp.broadcast_to(jnp.arange(length), ids.shape) if positions is None else positions
    x, places = drop(wte(ids) + wpe(at)), first + at
    whole = prefix and 'text/cache' not in inputs  # the prefix goes through the layers, once
    image = drop(memory)
    if whole:
      x = jnp.concatenate([image, x], 1)
      places = jnp.concatenate([jnp.broadcast_to(jnp.arange(first), (b, first)), places], 1)
    width = first + room
    seen = (jnp.arange(width) <= places[..., None]) | (jnp.arange(width) < first)
    if cache is None:
      valid = jnp.concatenate([jnp.ones((b, first), bool), mask], 1)
      seen &= valid[:, None]
    taps, blocks = {'memory': memory}, []
    for i in range(1, self.depth + 1):

      def block(name):
        return Block(self.heads, self.mlp * self.width, dropout=self.dropout, pre_norm=True, name=name)

      own = None if cache is None else cache['blocks'][i - 1]
      x, extra = block(f'block{i}')(x, seen[:, None], train, cache=own, at=places)
      blocks.append(extra)
      scores = extra[:, :, first:] if whole and cache is None else None
      if not prefix:
        x, scores = block(f'over_image{i}')(x, None, train, image)
      elif scores is not None:
        placed = jnp.broadcast_to(jnp.arange(width) < first, (b, width))
        scores = image_scores(scores, seen[:, None, first:], placed, first)
      if i == 1 and scores is not None:
        taps['image_attention1'] = scores
      taps[f'block{i}'] = x[:, first:] if whole else x
    x = nn.LayerNorm(name='norm')(x)
    if whole and cache is None:
      taps['image_logits'] = wte.attend(x[:, :first])[..., : self.tokens]
    taps['tokens'] = x = x[:, first:] if whole else x
    last = jnp.max(jnp.where(mask, jnp.arange(length), 0), 1)
    taps['embed'] = jnp.take_along_axis(x, last[:, None, None], 1)[:, 0]
    if cache is not None:
      logits = wte.attend(taps['embed'])[..., : self.tokens]
      return {'cache': {'blocks': tuple(blocks), 'memory': memory}, 'logits': logits}
    return with_likelihood(taps, wte.attend(x)[..., : self.tokens], ids)

  def memory(self, inputs, train):
    """The image's tokens, [B, P, D]."""
    features, pooled = (inputs.get(f'{self.image}{k}') for k in (FEATURES, f'{FEATURES}/embed'))
    if self.encoder is None:
      features, _ = feature_sequence(inputs, self.image)
      pooled = None
    elif features is None or self.is_initializing():
      read(inputs, self.image, 'BHWC')
      taps = self.encoder(inputs | {'image': inputs[self.image]}, train=train)
      features, pooled = image_tokens(taps), taps.get('embed')
    shape = (1, features.shape[1] + (pooled is not None), self.width)
    places = self.param('places', nn.initializers.normal(0.02), shape)
    x = nn.Dense(self.width, name='project')(features.astype(places.dtype))
    if pooled is not None:
      pooled = nn.Dense(self.width, name='project_embed')(pooled.astype(places.dtype))
      x = jnp.concatenate([pooled[:, None], x], 1)
    x = nn.LayerNorm(name='norm_image')(x) + places
    present = inputs.get(f'{self.image}/present')
    return x if present is None else jnp.where(present[:, None, None] > 0, x, 0)
