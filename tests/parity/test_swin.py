"""Swin against transformers and timm."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
timm = pytest.importorskip('timm')
pytestmark = pytest.mark.parity
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
SIZES = {'embed_dim': 8, 'depths': [2, 3], 'num_heads': [2, 4], 'window_size': 3}


def pixels(image):
  return torch.tensor(((image / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()


@pytest.mark.parametrize('sides', [(24, 24), (48, 48), (40, 52)])
@pytest.mark.parametrize('classes', [3, None])
def test_transformers(published, agree, randomised, classes, sides):
  """Sides with a shift in no stage, the first and both; the last of no whole number of windows."""
  image = np.random.default_rng(0).integers(0, 256, (2, *sides, 3)).astype(np.uint8)
  config = transformers.SwinConfig(**SIZES, image_size=24, num_labels=3)
  name = 'SwinForImageClassification' if classes else 'SwinModel'
  module = randomised(getattr(transformers, name)(config), 0.2)
  body, theirs, x = module.swin if classes else module, {}, pixels(image)
  grid = [(sides[0] // 4, sides[1] // 4)]
  grid.append(tuple((n + 1) // 2 for n in grid[0]))

  def keep(name, at):
    def hook(_, __, y):
      y = y[0] if isinstance(y, tuple) else y
      theirs[name] = y.unflatten(1, grid[at]).permute(0, 3, 1, 2)

    return hook

  body.embeddings.register_forward_hook(keep('stem', 0))
  for i, stage in enumerate(body.encoder.layers):
    stage.blocks[-1].register_forward_hook(keep(f'stage{i + 1}', i))
  body.layernorm.register_forward_hook(keep('tokens', 1))
  with torch.no_grad():
    theirs['embed'] = body(x).pooler_output
    if classes:
      theirs['logits'] = module(x).logits
  files = {'preprocessor_config.json': {'image_mean': MEAN, 'image_std': STD}}
  agree(published('swin', module, {'image': image}, classes, files), theirs)


def test_timm(published, agree, randomised):
  image = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3)).astype(np.uint8)
  module = timm.create_model('swin_tiny_patch4_window7_224', **SIZES, img_size=48, num_classes=3)
  module, theirs, x = randomised(module, 0.2), {}, pixels(image)
  for name, part in {'stem': module.patch_embed, 'tokens': module.norm, 'stage1': module.layers[0]}.items():
    part.register_forward_hook(lambda _, __, y, name=name: theirs.__setitem__(name, y.permute(0, 3, 1, 2)))
  module.layers[1].register_forward_hook(lambda _, __, y: theirs.__setitem__('stage2', y.permute(0, 3, 1, 2)))
  with torch.no_grad():
    theirs['logits'] = module(x)
    theirs['embed'] = module.forward_head(module.forward_features(x), pre_logits=True)
  scaling = {'mean': MEAN, 'std': STD, 'input_size': [3, 48, 48], 'crop_pct': 0.9}
  config = {'architecture': 'swin_tiny_patch4_window7_224.ms_in1k', 'num_classes': 3, 'model_args': SIZES}
  files = {'config.json': config | {'pretrained_cfg': scaling}}
  agree(published('swin', module, {'image': image}, 3, files), theirs)
