"""MobileNetV3 against timm, which has it with both paddings, and torchvision."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
timm = pytest.importorskip('timm')
torchvision = pytest.importorskip('torchvision')
pytestmark = pytest.mark.parity
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
SCALING = {'mean': MEAN, 'std': STD, 'input_size': [3, 224, 224], 'crop_pct': 0.875}


def example(shape):
  """An image, and what the library reads."""
  image = np.random.default_rng(0).integers(0, 256, (2, *shape, 3)).astype(np.uint8)
  return image, torch.tensor(((image / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()


@pytest.mark.parametrize(
  ('name', 'shape'),
  [
    ('mobilenetv3_small_050', (64, 96)),
    ('mobilenetv3_small_075', (51, 64)),
    ('mobilenetv3_small_100', (64, 64)),
    ('mobilenetv3_large_100', (64, 64)),
    ('tf_mobilenetv3_small_075', (51, 64)),
    ('tf_mobilenetv3_large_100', (64, 90)),
    ('tf_mobilenetv3_small_minimal_100', (64, 64)),
    ('tf_mobilenetv3_large_minimal_100', (64, 64)),
  ],
)
def test_timm(published, agree, randomised, name, shape):
  module, (image, x) = randomised(timm.create_model(name, num_classes=7), gain=1.5), example(shape)
  theirs, n = {}, len(module.blocks)
  with torch.no_grad():
    theirs['stem'] = y = module.bn1(module.conv_stem(x))
    for i, stage in enumerate(module.blocks, 1):
      theirs[f'stage{i}' if i < n else 'last'] = y = stage(y)
    theirs['embed'] = module.forward_head(y, pre_logits=True)
    theirs['logits'] = module(x)
  config = {'architecture': name, 'num_classes': 7, 'pretrained_cfg': SCALING}
  agree(published('mobilenet_v3', module, {'image': image}, 7, {'config.json': config}), theirs)


@pytest.mark.parametrize('size', ['small', 'large'])
def test_torchvision(published, agree, randomised, size):
  name = f'mobilenet_v3_{size}'
  module, (image, x) = (
    randomised(getattr(torchvision.models, name)(num_classes=7), gain=1.5),
    example((64, 80)),
  )
  ends = {'small': (0, 1, 3, 6, 8, 11, 12), 'large': (0, 1, 3, 6, 10, 12, 15, 16)}[size]
  names = ['stem', *(f'stage{i}' for i in range(1, len(ends) - 1)), 'last']
  theirs, y = {}, x
  with torch.no_grad():
    for i, layer in enumerate(module.features):
      y = layer(y)
      if i in ends:
        theirs[names[ends.index(i)]] = y
    theirs['embed'] = module.classifier[:2](y.mean((2, 3)))
    theirs['logits'] = module(x)
  config = {'architecture': name, 'num_classes': 7, 'pretrained_cfg': SCALING}
  agree(published('mobilenet_v3', module, {'image': image}, 7, {'config.json': config}), theirs)
