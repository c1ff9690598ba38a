"""MobileNetV4 against timm."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
timm = pytest.importorskip('timm')
pytestmark = pytest.mark.parity
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
SCALING = {'mean': MEAN, 'std': STD, 'input_size': [3, 256, 256], 'crop_pct': 0.95}


@pytest.mark.parametrize(
  ('name', 'shape'),
  [
    ('mobilenetv4_conv_small_050', (51, 64)),
    ('mobilenetv4_conv_small', (64, 96)),
    ('mobilenetv4_conv_medium', (64, 64)),
    ('mobilenetv4_conv_large', (51, 64)),
    ('mobilenetv4_conv_aa_medium', (70, 64)),
  ],
)
def test_every_tap(published, agree, randomised, name, shape):
  module = randomised(timm.create_model(name, num_classes=7), gain=1.4)
  image = np.random.default_rng(0).integers(0, 256, (2, *shape, 3)).astype(np.uint8)
  x = torch.tensor(((image / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()
  theirs, n = {}, len(module.blocks)
  with torch.no_grad():
    theirs['stem'] = y = module.bn1(module.conv_stem(x))
    for i, stage in enumerate(module.blocks, 1):
      theirs[f'stage{i}' if i < n else 'last'] = y = stage(y)
    theirs['embed'] = module.forward_head(y, pre_logits=True)
    theirs['logits'] = module(x)
  config = {'architecture': name, 'num_classes': 7, 'pretrained_cfg': SCALING}
  agree(published('mobilenet_v4', module, {'image': image}, 7, {'config.json': config}), theirs)
