"""CLIP's text tower: causal, pre-norm, pooled at the end of the text (Radford et al., 2103.00020)."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.layers import Activation, Block, Classifier, read
from kdjax.options import Depth, Eps, Rate, Size, Vocabulary, Whole


class ClipText(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L],
  `embed` [B, D], and optionally `logits` [B, C].

  The attentions are scores before the mask and the softmax; `tokens` come out of the last norm.
  The defaults are those of the text tower of CLIP ViT-B/32.

  Attributes:
    vocab_size: filled in from the tokenizer when left out.
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer.
    positions: the longest text.
    act: activation of the MLP.
    eps: of the layer norms.
    dropout: probability, after attention and after the MLP.
    end: the token at whose first position `embed` is taken; None for the largest of the text, as in CLIP.
    num_classes: None for an encoder without `logits`.
  """

  vocab_size: Vocabulary
  width: Size = 512
  depth: Depth = 12
  heads: Size = 8
  mlp: Size = 2048
  positions: Size = 77
  act: Activation = 'quick_gelu'
  eps: Eps = 1e-5
  dropout: Rate = 0.0
  end: Whole | None = None
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    ids = read(inputs, 'text', 'BL')
    length = ids.shape[1]
    if length > self.positions:
      raise KdjaxError(
        f'a text of {length} tokens is longer than the {self.positions} positions of the model: set '
        f'data.text_length to {self.positions} or less.'
      )
    mask = inputs.get('text/mask', jnp.ones_like(ids))
    causal_mask = jnp.tril(jnp.ones((length, length), bool)) & (mask[:, None, None] > 0)
    x = nn.Embed(self.vocab_size, self.width, name='words')(ids)
    x += nn.Embed(self.positions, self.width, name='positions')(jnp.arange(length))
    taps = {'embeddings': x}
    for i in range(1, self.depth + 1):
      block = Block(self.heads, self.mlp, self.eps, self.act, self.dropout, pre_norm=True, name=f'block{i}')
      x, taps[f'attention{i}'] = block(x, causal_mask, train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = nn.LayerNorm(self.eps, name='norm')(x)
    # The end of the text has the largest id of CLIP's vocabulary; what pads after it may be the same.
    end = jnp.argmax(jnp.where(mask > 0, ids, -1) if self.end is None else ids == self.end, 1)
    taps['embed'] = jnp.take_along_axis(x, end[:, None, None], 1)[:, 0]
    return Classifier(self.num_classes, name='head')(taps)
