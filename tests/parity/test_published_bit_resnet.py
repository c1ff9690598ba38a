"""BiT's ResNet-v2 against timm."""

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip('torch')
timm = pytest.importorskip('timm')
pytestmark = pytest.mark.parity


def other_scale(module):
  """Moves every kernel off the mean of 0; large, for timm adds 1e-8 to the variance and the authors 1e-10."""
  with torch.no_grad():
    for name, x in module.state_dict().items():
      if x.ndim == 4 and 'head' not in name:
        x.copy_(5 * x + 0.2)
  return module


def small(layers, width):
  conv = partial(timm.layers.StdConv2d, eps=1e-8)
  make = timm.models.resnetv2.ResNetV2
  return make(layers, num_classes=7, width_factor=width, stem_type='fixed', conv_layer=conv)


@pytest.mark.parametrize(('depth', 'width'), [(26, 1), (26, 2), (50, 1)])
def test_every_tap(ours, agree, randomised, depth, width):
  result = (
    small([2, 2, 2, 2], width) if depth == 26 else timm.create_model('resnetv2_50x1_bit', num_classes=7)
  )
  module = other_scale(randomised(result))
  image = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3)).astype(np.uint8)
  x = torch.tensor(image.transpose(0, 3, 1, 2)) / 127.5 - 1
  theirs = {}
  hooked = {'stem': module.stem.conv} | {f'stage{i + 1}': part for i, part in enumerate(module.stages)}
  for name, part in hooked.items():
    part.register_forward_hook(lambda _, y, z, name=name: theirs.__setitem__(name, z))
  with torch.no_grad():
    logits = module(x)
    theirs['embed'] = module.norm(theirs['stage4']).mean((2, 3))
  inputs = {'depth': depth, 'width': width, 'num_classes': 7}
  agree(ours('bit_resnet', inputs, module.state_dict(), {'image': image}), theirs | {'logits': logits})
