"""SigLIP's text tower: bidirectional, pooled at the last position (Zhai et al., 2303.15343)."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn.layers import Activation, Block, Classifier, read
from kdjax.options import Depth, Eps, Rate, Size, Vocabulary


class SiglipText(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L],
  `embed` [B, E], and optionally `logits` [B, C].

  The attentions are scores before the softmax; `tokens` come out of the last norm, and `embed` is a
  dense layer on the last of them. 'text/mask' is not read: SigLIP was trained on texts padded to all
  its positions, which attends to padding as to any other token, and published weights need the same, so
  data.text_length has to be `positions`. The defaults are those of SigLIP ViT-B/16.

  Attributes:
    vocab_size: filled in from the tokenizer when left out.
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer.
    positions: the longest text.
    project: E; None for D.
    act: activation of the MLP.
    eps: of the layer norms.
    dropout: probability, after attention and after the MLP.
    num_classes: None for an encoder without `logits`.
  """

  vocab_size: Vocabulary
  width: Size = 768
  depth: Depth = 12
  heads: Size = 12
  mlp: Size = 3072
  positions: Size = 64
  project: Size | None = None
  act: Activation = 'gelu_pytorch_tanh'
  eps: Eps = 1e-6
  dropout: Rate = 0.0
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
    x = nn.Embed(self.vocab_size, self.width, name='words')(ids)
    x += nn.Embed(self.positions, self.width, name='positions')(jnp.arange(length))
    taps = {'embeddings': x}
    for i in range(1, self.depth + 1):
      block = Block(self.heads, self.mlp, self.eps, self.act, self.dropout, pre_norm=True, name=f'block{i}')
      x, taps[f'attention{i}'] = block(x, train=train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = nn.LayerNorm(self.eps, name='norm')(x)
    taps['embed'] = nn.Dense(self.project or self.width, name='project')(x[:, -1])
    return Classifier(self.num_classes, name='head')(taps)
