"""EfficientNet, B0 to B8, with squeeze-and-excitation and the swish (Tan and Le, 1905.11946)."""

import math

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.models.vision.efficientnet_lite import STAGES
from kdjax.nn.inverted_residual import InvertedResidual, Padding, batch_norm, channels, conv_norm
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Eps, Means, Multiplier, Rate, Scales, Size, Whole


class Efficientnet(nn.Module):
  """Taps: `stem`, `stage1` ... `stage7` [B, H, W, C], `embed` [B, D], optionally `logits` [B, C].

  Width and depth are (1, 1) in B0, (1, 1.1) in B1, (1.1, 1.2) in B2, (1.2, 1.4) in B3, (1.4, 1.8) in B4,
  (1.6, 2.2) in B5, (1.8, 2.6) in B6, (2, 3.1) in B7 and (2.2, 3.6) in B8, for images of 224, 240, 260, 300,
  380, 456, 528, 600 and 672 pixels. Deviation: no stochastic depth.

  Attributes:
    width: multiplies all channels; D is 1280 times that.
    depth: multiplies the blocks of each stage.
    torch: for weights trained in torch and not in TensorFlow (timm's tf_ ones and those of transformers):
      strided convolutions pad both sides alike.
    symmetric: None to pad strided convolutions by the size of their map where `torch` is not set, as
      TensorFlow does. As transformers does, whatever the size: the numbers, from 0, of the blocks whose
      convolution pads both sides alike; all others pad one more at the end.
    eps: of the batch norms, 0.001 in TensorFlow, and 1e-5 in timm's own.
    dropout: probability, before the last layer.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  width: Multiplier = 1.0
  depth: Multiplier = 1.0
  torch: bool = False
  symmetric: tuple[Whole, ...] | None = None
  eps: Eps = 1e-3
  dropout: Rate = 0.2
  mean: Means = (0.485, 0.456, 0.406)
  std: Scales = (0.229, 0.224, 0.225)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    norm = batch_norm(self.eps, train)
    x = standardised(inputs, self.mean, self.std)
    if self.symmetric is not None and min(x.shape[1:3]) < 32:
      sides = '×'.join(map(str, x.shape[1:3]))
      raise KdjaxError(
        f'efficientnet with symmetric takes images of 32×32 or more, and the data have {sides}.'
      )
    x = conv_norm(x, channels(32, self.width), 3, norm, 'stem', nn.silu, 2, self.padding(3))
    taps, index = {'stem': x}, 0
    for i, (kernel, stride, expansion, n, repeats) in enumerate(STAGES, 1):
      for j in range(math.ceil(repeats * self.depth)):
        stride, before = 1 if j else stride, x.shape[-1]
        sizes = channels(n, self.width), before * expansion, kernel, stride
        padding = self.padding(kernel, index) if stride > 1 else 'SAME'
        squeeze, index = max(1, before // 4), index + 1
        block = InvertedResidual(*sizes, padding, self.eps, 'silu', squeeze, name=f'block{index}')
        x = block(x, train)
      taps[f'stage{i}'] = x
    x = conv_norm(x, channels(1280, self.width), 1, norm, 'last', nn.silu)
    taps['embed'] = jnp.mean(x, (1, 2))
    if not self.num_classes:
      return taps
    x = nn.Dropout(self.dropout, deterministic=not train)(taps['embed'])
    return taps | {'logits': Classifier(self.num_classes, name='head')({'embed': x})['logits']}

  def padding(self, kernel: int, block: int = -1) -> Padding:
    """Of a convolution with a stride of 2, that of a block or of the stem, -1."""
    after = kernel // 2
    if self.torch:
      return after
    if self.symmetric is None:
      return 'SAME'
    pads = (after if block in self.symmetric else after - 1, after)
    return pads, pads
