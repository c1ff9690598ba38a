"""ConvNeXt of both versions against transformers and timm."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
timm = pytest.importorskip('timm')
pytestmark = pytest.mark.parity
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
IMAGE = np.random.default_rng(0).integers(0, 256, (2, 68, 96, 3)).astype(np.uint8)
PIXELS = torch.tensor(((IMAGE / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()
DEPTHS, WIDTHS = [1, 2, 1, 1], [8, 16, 24, 32]


def watch(parts):
  """name -> output of modules, filled by the next forward."""
  theirs = {}
  for name, part in parts.items():
    part.register_forward_hook(lambda _, __, y, name=name: theirs.__setitem__(name, y))
  return theirs


@pytest.mark.parametrize('kind', ['ConvNext', 'ConvNextV2'])
@pytest.mark.parametrize('classes', [3, None])
def test_transformers(published, agree, randomised, kind, classes):
  config = getattr(transformers, f'{kind}Config')(depths=DEPTHS, hidden_sizes=WIDTHS, num_labels=3)
  module = getattr(transformers, f'{kind}ForImageClassification' if classes else f'{kind}Model')(config)
  module = randomised(module, 0.2)
  body = getattr(module, module.base_model_prefix) if classes else module
  parts = {'stem': body.embeddings} | {f'stage{i}': x for i, x in enumerate(body.encoder.stages, 1)}
  theirs = watch(parts)
  with torch.no_grad():
    theirs['embed'] = body(PIXELS).pooler_output
    if classes:
      theirs['logits'] = module(PIXELS).logits
  files = {'preprocessor_config.json': {'image_mean': MEAN, 'image_std': STD}}
  agree(published('convnext', module, {'image': IMAGE}, classes, files), theirs)


@pytest.mark.parametrize('name', ['convnext_tiny', 'convnext_atto', 'convnextv2_nano'])
def test_timm(published, agree, randomised, name):
  sizes = {'depths': DEPTHS, 'dims': WIDTHS}
  module = randomised(timm.create_model(name, **sizes, num_classes=3), 0.2)
  theirs = watch({'stem': module.stem} | {f'stage{i}': x for i, x in enumerate(module.stages, 1)})
  with torch.no_grad():
    theirs['logits'] = module(PIXELS)
    theirs['embed'] = module.forward_head(module.forward_features(PIXELS), pre_logits=True)
  scaling = {'mean': MEAN, 'std': STD, 'input_size': [3, 224, 224], 'crop_pct': 0.875}
  config = {'architecture': name, 'num_classes': 3, 'model_args': sizes, 'pretrained_cfg': scaling}
  agree(published('convnext', module, {'image': IMAGE}, 3, {'config.json': config}), theirs)
