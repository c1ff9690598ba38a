"""LeNet-5 as Caffe has it, of two convolutions and two linear layers (LeCun et al., 1998)."""

from typing import Annotated

import flax.linen as nn
from annotated_types import Len

from kdjax.models.vision.maxout import pooled
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, read, scale_image
from kdjax.options import Rate, Size


class Lenet5(nn.Module):
  """Taps: `conv1`, `conv2` [B, H, W, C] after their pooling, `embed` [B, D], and optionally `logits` [B, C].

  The image is read as [0, 1]. Convolutions of 5×5 without padding, each followed by a max over 2×2, then a
  hidden linear layer of ReLU. The defaults are Caffe's `examples/mnist/lenet.prototxt`, 431,080 parameters at
  28×28, which Deep Compression (1510.00149) calls LeNet-5: as there, no ReLU follows the convolutions.
  Deviation: the kernels start as Flax has them, where theirs are uniform with the same variance.

  Attributes:
    channels: of the two convolutions.
    hidden: units of the linear layer.
    dropout: probability for its units.
    num_classes: None for an encoder without `logits`.
  """

  channels: Annotated[tuple[Size, ...], Len(2, 2)] = (20, 50)
  hidden: Size = 500
  dropout: Rate = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x, taps = scale_image(read(inputs, 'image', 'BHWC')) / 2 + 0.5, {}
    for i, channels in enumerate(self.channels, 1):
      x = taps[f'conv{i}'] = pooled(Conv(channels, (5, 5), padding='VALID', name=f'conv{i}')(x), 2, 2)
    x = nn.relu(nn.Dense(self.hidden, name='hidden')(x.reshape(len(x), -1)))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return Classifier(self.num_classes, name='head')(taps | {'embed': x})
