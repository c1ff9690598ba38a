"""ResNet against torchvision and timm."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
torchvision = pytest.importorskip('torchvision')
timm = pytest.importorskip('timm')
pytestmark = pytest.mark.parity
MEAN, STD = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.mark.parametrize(('library', 'depth'), [('torchvision', 18), ('torchvision', 50), ('timm', 34)])
def test_every_tap(ours, agree, randomised, library, depth):
  make = torchvision.models.get_model if library == 'torchvision' else timm.create_model
  module = randomised(make(f'resnet{depth}', num_classes=7))
  image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
  x = (torch.tensor(image.transpose(0, 3, 1, 2)) / 255 - MEAN) / STD
  theirs, hooked = (
    {},
    {'stem': module.maxpool} | {f'stage{i}': getattr(module, f'layer{i}') for i in range(1, 5)},
  )
  for name, part in hooked.items():
    at = (lambda y, z: y[0]) if name == 'stem' else (lambda y, z: z)
    part.register_forward_hook(lambda _, y, z, name=name, at=at: theirs.__setitem__(name, at(y, z)))
  with torch.no_grad():
    logits = module(x)
  theirs |= {'embed': theirs['stage4'].mean((2, 3)), 'logits': logits}
  agree(
    ours('resnet_imagenet', {'depth': depth, 'num_classes': 7}, module.state_dict(), {'image': image}), theirs
  )
