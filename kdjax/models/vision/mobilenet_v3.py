"""MobileNetV3, small and large, found by a search (Howard et al., 1905.02244)."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn.inverted_residual import InvertedResidual, batch_norm, channels, conv_norm
from kdjax.nn.layers import Classifier, activation, standardised
from kdjax.options import Eps, Means, Multiplier, Rate, Scales, Size

# Of each stage: kernel, the first stride, channels before scaling, whether it has squeeze-and-excitation, and
# whether it has the hard swish, not ReLU; then the expansion of each of its blocks.
STAGES = {
  'small': (
    (3, 2, 16, True, False, (1,)),
    (3, 2, 24, False, False, (4.5, 3.67)),
    (5, 2, 40, True, True, (4, 6, 6)),
    (5, 1, 48, True, True, (3, 3)),
    (5, 2, 96, True, True, (6, 6, 6)),
  ),
  'large': (
    (3, 1, 16, False, False, (1,)),
    (3, 2, 24, False, False, (4, 3)),
    (5, 2, 40, True, False, (3, 3, 3)),
    (3, 2, 80, False, True, (6, 2.5, 2.3, 2.3)),
    (3, 1, 112, True, True, (6, 6)),
    (5, 2, 160, True, True, (6, 6, 6)),
  ),
}
LAST = {'small': (576, 1024), 'large': (960, 1280)}  # channels of the last convolution, and D


class MobilenetV3(nn.Module):
  """Taps: `stem`, `stage1` ..., `last` [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  The small one has five stages, the large one six; `last` is the map that is averaged, and `embed` comes out
  of a layer over that mean. Deviation: no stochastic depth. The defaults are those of torchvision.

  Attributes:
    size: which of the two.
    width: multiplies all channels but those of `embed`; below 0.75 also but those of `stem`.
    minimal: with ReLU, 3×3 kernels and no squeeze-and-excitation throughout.
    torch: for weights trained in torch and not in TensorFlow (timm's tf_ ones): strided convolutions pad
      both sides alike.
    eps: of the batch norms, 0.001 in torchvision and TensorFlow, and 1e-5 in timm's own.
    dropout: probability, before the last layer.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  size: Literal['small', 'large'] = 'large'
  width: Multiplier = 1.0
  minimal: bool = False
  torch: bool = True
  eps: Eps = 1e-3
  dropout: Rate = 0.2
  mean: Means = (0.485, 0.456, 0.406)
  std: Scales = (0.229, 0.224, 0.225)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    if self.size not in STAGES:
      raise unknown('size of the model mobilenet_v3', str(self.size), STAGES)
    norm, swish = batch_norm(self.eps, train), 'relu' if self.minimal else 'hard_swish'
    x = standardised(inputs, self.mean, self.std)
    stem = 16 if self.width < 0.75 else channels(16, self.width)
    x = conv_norm(x, stem, 3, norm, 'stem', activation(swish), 2, 1 if self.torch else 'SAME')
    taps, index = {'stem': x}, 0
    for i, (kernel, stride, n, squeezed, hard, expansions) in enumerate(STAGES[self.size], 1):
      kernel = 3 if self.minimal else kernel
      for j, expansion in enumerate(expansions):
        index += 1
        inner = channels(x.shape[-1] * expansion)
        sizes = channels(n, self.width), inner, kernel, 1 if j else stride
        padding, act = kernel // 2 if self.torch else 'SAME', swish if hard else 'relu'
        squeeze = channels(inner / 4) if squeezed and not self.minimal else 0
        block = InvertedResidual(*sizes, padding, self.eps, act, squeeze, True, name=f'block{index}')
        x = block(x, train)
      taps[f'stage{i}'] = x
    last, embed = LAST[self.size]
    taps['last'] = x = conv_norm(x, channels(last, self.width), 1, norm, 'last', activation(swish))
    taps['embed'] = x = activation(swish)(nn.Dense(embed, name='hidden')(jnp.mean(x, (1, 2))))
    if not self.num_classes:
      return taps
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return taps | {'logits': Classifier(self.num_classes, name='head')({'embed': x})['logits']}
