"""A language model that reads an image as tokens: SmolVLM, Idefics3 (Marafioti et al., 2504.05299)."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.layers import image_scores, patches, read
from kdjax.options import Size, Whole
from kdjax.types import Array, Module

SQUARE = ('attention',)  # taps with two axes of positions, the last ones
WHOLE = ('embed', 'words', 'head')  # taps with none


def without_prefix(taps: dict[str, Array], count: int) -> dict[str, Array]:
  """The taps of a language model at its last positions, all but the first `count`."""
  kept = {}
  for name, x in taps.items():
    square = name.startswith(SQUARE)
    kept[name] = x if name in WHOLE else x[..., count:, count:] if square else x[:, count:]
  return kept


def at_image(taps: dict[str, Array], mask: Array, placed: Array, count: int, length: int) -> dict[str, Array]:
  """`image_logits` [B, K, V] and `image_attention1` [B, heads, L, K + 1] of a language model's taps."""
  at = jnp.argsort(~placed, axis=1, stable=True)[:, :count]
  own = {'image_logits': jnp.take_along_axis(taps['logits'], at[..., None], 1)}
  if 'attention1' in taps:
    scores = taps['attention1'][:, :, -length:]
    causal = jnp.tril(jnp.ones((mask.shape[1],) * 2, bool))[-length:] & mask[:, None, None]
    own['image_attention1'] = image_scores(scores, causal, placed, count)
  return own


class VisionLanguage(nn.Module):
  """Taps: every tap of the image tower as `image/<tap>`, `image_tokens` [B, K, D], and those of the language
  model by its own names, at the L positions of the text: `embeddings`, `block1` ... and `tokens` [B, L, D],
  `attention1` ... [B, heads, L, L], `embed` [B, D], `logits` [B, L, V], `best` i32 [B, L] and `likelihood`
  f32 [B, L], and its `words` and `head`. At the places of the image it has `image_logits` [B, K, V], and
  `image_attention1` [B, heads, L, K + 1], what the text attends to there in the first layer, as
  `nn.layers.image_scores` gives it; of a `window` no account is taken.

  The tower's tokens, `shuffle` by `shuffle` of them joined to one and projected, are the K tokens of the
  image. They take the places of a text's image tokens, of which it has K; a text that has none gets them
  before its first token. One image an example, which is not split into parts; an example is not gone on with
  as one of `llama` is. The positions of the tower are those of its table, of which transformers rounds some
  to their neighbours, on sides such as 19 or 25 patches.

  Attributes:
    image: the image tower, which gives `tokens` of a square of patches.
    text: the language model, such as `llama`.
    shuffle: the side of the square of tokens that become one.
    image_token: the id in whose places the image tokens are.
    prefix: whether there are K places before the text, which stay empty where it has image tokens. False
      where all texts have them, which takes less time.
  """

  image: Module
  text: Module
  shuffle: Size = 4
  image_token: Whole = 49_190
  prefix: bool = True

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    if 'text/at' in inputs:
      raise KdjaxError('the model vision_language cannot go on with a text: it takes no text/at.')
    ids = read(inputs, 'text', 'BL')
    mask = inputs.get('text/mask', jnp.ones_like(ids)) > 0
    seen = self.image(inputs, train=train)
    b, count, width = seen['tokens'].shape
    side = round(count**0.5)
    if side**2 != count or side % self.shuffle:
      raise KdjaxError(
        f'{count} patches of an image are no square whose side divides by shuffle, {self.shuffle}: give it '
        'square images of another size.'
      )
    x = patches(seen['tokens'].reshape(b, side, side, width), self.shuffle)
    x = x.reshape(b, -1, x.shape[-1])
    placed = (ids == self.image_token) & mask
    x = nn.Dense(read_width(self.text), False, name='connect')(x)
    count = x.shape[1]
    order = jnp.clip(jnp.cumsum(placed, 1) - 1, 0, count - 1)
    vectors = jnp.take_along_axis(x, order[..., None], 1)
    if self.prefix:
      self.check_length(ids.shape[1], count)
      first = jnp.broadcast_to(~placed.any(1, keepdims=True), (b, count))
      vectors, placed = jnp.concatenate([x, vectors], 1), jnp.concatenate([first, placed], 1)
      ids, mask = jnp.pad(ids, ((0, 0), (count, 0))), jnp.concatenate([first, mask], 1)
    text = {'text': ids, 'text/mask': mask, 'text/vectors': vectors, 'text/vectors/mask': placed}
    taps, length = self.text(text, train=train), inputs['text'].shape[1]
    own = {f'image/{tap}': y for tap, y in seen.items()} | {'image_tokens': x}
    own |= at_image(taps, mask, placed, count, length)
    return own | (without_prefix(taps, count) if self.prefix else taps)

  def check_length(self, length, count):
    """Raises KdjaxError for a text that has no room behind its image."""
    positions = getattr(self.text, 'positions', length + count)
    if length + count > positions:
      raise KdjaxError(
        f'a text of {length} tokens behind the {count} of its image is longer than {positions} positions: '
        f'set data.text_length to {positions - count} or less, or prefix to False where texts have image '
        'tokens.'
      )


def read_width(text: Module) -> int:
  """D of a language model.

  Raises:
    KdjaxError: for a model that has no width.
  """
  width = getattr(text, 'width', None)
  if not isinstance(width, int):
    raise KdjaxError('vision_language.text is a model without a width: choose a language model, as llama is.')
  return width
