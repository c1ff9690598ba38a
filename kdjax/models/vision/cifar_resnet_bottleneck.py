"""ResNet-50 for images of 32×32: four stages of bottlenecks and a 3×3 stem (He et al., 1512.03385)."""

import flax.linen as nn

from kdjax.models.vision.cifar_resnet import residual_taps
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Blocks, Means, Scales, Size, Sizes


class CifarResnetBottleneck(nn.Module):
  """Taps: `stem`, `stage1` ... `stage4` [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  `stage1_before` ... are the same maps before their ReLU. The stem keeps the size and nothing is pooled
  after it; a bottleneck has its stride in its 3×3 convolution, where the paper has it in the first.
  Initialisation as in cifar_resnet, with the same deviation in the last layer.

  Attributes:
    widths: inner channels of each stage, a fourth of the outer; each but the first halves the map.
    blocks: blocks of each stage: 3, 4, 6, 3 is ResNet-50, and 3, 4, 23, 3 ResNet-101.
    mean: of the channels of an image in [0, 1], subtracted from it; as of CIFAR-100.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  widths: Sizes = (64, 128, 256, 512)
  blocks: Blocks = (3, 4, 6, 3)
  mean: Means = (0.5071, 0.4867, 0.4408)
  std: Scales = (0.2675, 0.2565, 0.2761)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = standardised(inputs, self.mean, self.std)
    taps = residual_taps(x, self.widths[0], self.widths, self.blocks, True, train)
    return Classifier(self.num_classes, name='head')(taps)
