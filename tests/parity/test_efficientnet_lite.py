"""EfficientNet-Lite against timm, which has it with both paddings."""

import numpy as np
import pytest

from kdjax.pretrained import efficientnet_lite

torch = pytest.importorskip('torch')
timm = pytest.importorskip('timm')
pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
  ('name', 'side'), [('tf_efficientnet_lite0', 64), ('efficientnet_lite0', 64), ('tf_efficientnet_lite2', 57)]
)
def test_every_tap(ours, agree, randomised, tmp_path, name, side):
  module = randomised(timm.create_model(name, num_classes=7), gain=1.6)
  image = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
  mean, std = (torch.tensor(module.pretrained_cfg[k]).view(-1, 1, 1) for k in ('mean', 'std'))
  x = (torch.tensor(image.transpose(0, 3, 1, 2)) / 255 - mean) / std
  theirs = {}
  with torch.no_grad():
    theirs['stem'] = y = module.bn1(module.conv_stem(x))
    for i, stage in enumerate(module.blocks, 1):
      theirs[f'stage{i}'] = y = stage(y)
    theirs['embed'] = module.forward_head(module.forward_features(x), pre_logits=True)
    theirs['logits'] = module(x)
  known = efficientnet_lite.config({'architecture': name}, tmp_path) | {'num_classes': 7}
  agree(ours('efficientnet_lite', known, module.state_dict(), {'image': image}), theirs)
