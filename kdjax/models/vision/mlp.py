"""Fully connected network; a linear classifier where it has no hidden layer."""

import flax.linen as nn

from kdjax.nn.layers import Classifier, read, scale_image
from kdjax.options import Rate, Size


class Mlp(nn.Module):
  """Taps: `hidden1` ... [B, D], `embed` [B, D] (the last one, or the input), optionally `logits` [B, C].

  An image [B, H, W, C] is read as [0, 1], so that black, and what dropout takes away, is 0. Vectors [B, D]
  are taken as they are: `inputs={'image': 'x1'}`.

  Attributes:
    hidden: units of each hidden layer, of ReLU.
    dropout: probability for hidden units.
    input_dropout: probability for the input's values.
    num_classes: None for an encoder without `logits`.
  """

  hidden: tuple[Size, ...] = (800, 800)
  dropout: Rate = 0.0
  input_dropout: Rate = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = read(inputs, 'image')
    x = scale_image(x) / 2 + 0.5 if x.ndim == 4 else x
    x = nn.Dropout(self.input_dropout, deterministic=not train)(x.reshape(x.shape[0], -1))
    taps = {}
    for i, width in enumerate(self.hidden, 1):
      taps[f'hidden{i}'] = nn.relu(nn.Dense(width, name=f'hidden{i}')(x))
      x = nn.Dropout(self.dropout, deterministic=not train)(taps[f'hidden{i}'])
    return Classifier(self.num_classes, name='head')(taps | {'embed': x})
