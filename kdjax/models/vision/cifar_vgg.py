"""VGG with batch norm and one linear layer, for images of 32×32 (Simonyan and Zisserman, 1409.1556)."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, standardised
from kdjax.options import Means, Scales, Size

FAN_OUT = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# Convolutions of each part; the depth counts them and the three linear layers of the paper's models.
DEPTHS = {
  8: (1, 1, 1, 1, 1),
  11: (1, 1, 2, 2, 2),
  13: (2, 2, 2, 2, 2),
  16: (2, 2, 3, 3, 3),
  19: (2, 2, 4, 4, 4),
}
WIDTHS = {'stem': 64, 'stage1': 128, 'stage2': 256, 'stage3': 512, 'stage4': 512}


class CifarVgg(nn.Module):
  """Taps: `stem`, `stage1` ... `stage4` [B, H, W, C], `embed` [B, 512], and optionally `logits` [B, C].

  A tap is the output of a part before its max pooling, and `stage1_before` ... the same
  before its ReLU. Layout and initialisation are those of the distillation literature (Tian et al.,
  1910.10699): convolutions have biases, are He normal by their outputs, and no hidden linear layers
  follow them. Images of 32 are halved thrice, and only those of 64 once more, before the last stage.
  Deviation: the last layer starts as Flax has it, where theirs is normal with a deviation of 0.01.

  Attributes:
    depth: 8, 11, 13, 16 or 19.
    mean: of the channels of an image in [0, 1], subtracted from it; as of CIFAR-100.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  depth: Literal[8, 11, 13, 16, 19] = 8
  mean: Means = (0.5071, 0.4867, 0.4408)
  std: Scales = (0.2675, 0.2565, 0.2761)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    if self.depth not in DEPTHS:
      raise unknown('depth of the model cifar_vgg', str(self.depth), map(str, DEPTHS))
    x, taps = standardised(inputs, self.mean, self.std), {}
    large = x.shape[1] == 64
    for (part, width), n in zip(WIDTHS.items(), DEPTHS[self.depth], strict=True):
      if part != 'stem' and (part != 'stage4' or large):
        x = nn.max_pool(x, (2, 2), (2, 2))
      for j in range(1, n + 1):
        x = Conv(width, (3, 3), padding=1, kernel_init=FAN_OUT, name=f'{part}_conv{j}')(x)
        before = nn.BatchNorm(not train, momentum=0.9, name=f'{part}_norm{j}')(x)
        x = nn.relu(before)
      taps[part] = x
      if part != 'stem':
        taps[f'{part}_before'] = before
    taps['embed'] = jnp.mean(x, (1, 2))
    return Classifier(self.num_classes, name='head')(taps)
