"""Vision Transformer with mean pooling (Dosovitskiy et al., 2010.11929)."""

import flax.linen as nn

from kdjax.nn.layers import Block, Classifier, patches, read, scale_image
from kdjax.options import Depth, Rate, Size


class Vit(nn.Module):
  """Taps: `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L], scores before the
  softmax, `embed` [B, D], and optionally `logits` [B, C].

  Deviation from the paper: pre-norm blocks, the mean of the tokens for the class token.

  Attributes:
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    patch: the side of a patch; the image has to divide into patches.
    dropout: probability, after attention and after the MLP.
    num_classes: None for an encoder without `logits`.
  """

  width: Size = 192
  depth: Depth = 6
  heads: Size = 3
  patch: Size = 8
  dropout: Rate = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = patches(scale_image(read(inputs, 'image', 'BHWC')), self.patch)
    x = nn.Dense(self.width, name='patch')(x.reshape(x.shape[0], -1, x.shape[-1]))
    x += self.param('position', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    taps = {}
    for i in range(1, self.depth + 1):
      block = Block(self.heads, 4 * self.width, dropout=self.dropout, pre_norm=True, name=f'block{i}')
      x, taps[f'attention{i}'] = block(x, train=train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = nn.LayerNorm(name='norm')(x)
    taps['embed'] = x.mean(1)
    return Classifier(self.num_classes, name='head')(taps)
