"""Transformer text encoder with mean pooling (Vaswani et al., 1706.03762)."""

import flax.linen as nn

from kdjax.nn.layers import Block, Classifier, masked_mean, read
from kdjax.options import Depth, Rate, Size, Vocabulary


class Transformer(nn.Module):
  """Taps: `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L], scores before the
  softmax, `embed` [B, D], and optionally `logits` [B, C].

  Attributes:
    vocab_size: filled in from the tokenizer when left out.
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    dropout: probability, after attention and after the MLP.
    num_classes: None for an encoder without `logits`.
  """

  vocab_size: Vocabulary
  width: Size = 128
  depth: Depth = 2
  heads: Size = 2
  dropout: Rate = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    ids = read(inputs, 'text', 'BL')
    mask = inputs.get('text/mask', ids > 0)
    x = nn.Embed(self.vocab_size, self.width, name='words')(ids)
    x += self.param('position', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    taps = {}
    for i in range(1, self.depth + 1):
      block = Block(self.heads, 4 * self.width, dropout=self.dropout, pre_norm=True, name=f'block{i}')
      x, taps[f'attention{i}'] = block(x, mask[:, None, None], train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = nn.LayerNorm(name='norm')(x)
    taps['embed'] = masked_mean(x, mask)
    return Classifier(self.num_classes, name='head')(taps)
