"""EfficientNet-Lite, without squeeze-and-excitation and with ReLU6 (Tan and Le, 1905.11946)."""

import math
from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.errors import KdjaxError
from kdjax.nn.inverted_residual import InvertedResidual, batch_norm, channels, conv_norm
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Means, Rate, Scales, Size

# Kernel, stride, expansion, channels and blocks of a stage, before scaling.
STAGES = (
  (3, 1, 1, 16, 1),
  (3, 2, 6, 24, 2),
  (5, 2, 6, 40, 2),
  (3, 2, 6, 80, 3),
  (5, 1, 6, 112, 3),
  (5, 2, 6, 192, 4),
  (3, 1, 6, 320, 1),
)
# Multipliers of width and depth; they are meant for images of 224, 240, 260, 280 and 300 pixels.
SIZES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))


class EfficientnetLite(nn.Module):
  """Taps: `stem`, `stage1` ... `stage7` [B, H, W, C], `embed` [B, 1280], optionally `logits` [B, C].

  By default images are scaled to [-1, 1], where Google's own code takes (x - 127) / 128. Deviation: no
  stochastic depth.

  Attributes:
    size: 0 to 4, the published Lite0 to Lite4.
    torch: for weights trained in torch (timm's efficientnet_lite0) and not in TensorFlow (its tf_ ones
      and most others): strided convolutions pad both sides alike, and batch norms add 1e-5, not 1e-3.
    dropout: probability, before the last layer.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  size: Annotated[int, Interval(ge=0, le=4)] = 0
  torch: bool = False
  dropout: Rate = 0.2
  mean: Means = (0.5, 0.5, 0.5)
  std: Scales = (0.5, 0.5, 0.5)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    if self.size not in range(len(SIZES)):
      raise KdjaxError(f'efficientnet_lite.size is {self.size!r}; choose from 0 to {len(SIZES) - 1}.')
    width, depth = SIZES[self.size]
    eps = 1e-5 if self.torch else 1e-3
    norm = batch_norm(eps, train)
    x = standardised(inputs, self.mean, self.std)
    x = conv_norm(x, 32, 3, norm, 'stem', nn.relu6, 2, 1 if self.torch else 'SAME')
    taps, index = {'stem': x}, 0
    for i, (kernel, stride, expansion, n, repeats) in enumerate(STAGES, 1):
      # The first and the last stage keep their one block, whatever the depth.
      for j in range(repeats if i in (1, len(STAGES)) else math.ceil(repeats * depth)):
        index += 1
        sizes = channels(n, width), x.shape[-1] * expansion, kernel, stride if j == 0 else 1
        padding = kernel // 2 if self.torch else 'SAME'
        x = InvertedResidual(*sizes, padding, eps, 'relu6', name=f'block{index}')(x, train)
      taps[f'stage{i}'] = x
    x = conv_norm(x, 1280, 1, norm, 'last', nn.relu6)
    taps['embed'] = jnp.mean(x, (1, 2))
    if not self.num_classes:
      return taps
    x = nn.Dropout(self.dropout, deterministic=not train)(taps['embed'])
    return taps | {'logits': Classifier(self.num_classes, name='head')({'embed': x})['logits']}
