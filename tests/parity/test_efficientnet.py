"""EfficientNet against transformers, timm, which has it with both paddings, and torchvision."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
timm = pytest.importorskip('timm')
torchvision = pytest.importorskip('torchvision')
pytestmark = pytest.mark.parity
MEAN, STD = [0.4, 0.5, 0.6], [0.6, 0.5, 0.55]
SCALING = {'mean': MEAN, 'std': STD, 'input_size': [3, 224, 224], 'crop_pct': 0.875}
REPEATS = (1, 2, 2, 3, 3, 4, 1)


def example(shape):
  """An image, and what the library reads."""
  image = np.random.default_rng(0).integers(0, 256, (2, *shape, 3)).astype(np.uint8)
  return image, torch.tensor(((image / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()


@pytest.mark.parametrize(
  ('width', 'depth', 'symmetric', 'shape', 'classes'),
  [(1.0, 1.0, [16], (64, 96), 7), (0.5, 1.2, [2, 4], (51, 64), 7), (0.4, 0.5, [], (75, 50), None)],
)
def test_transformers(published, agree, randomised, width, depth, symmetric, shape, classes):
  sizes = {'width_coefficient': width, 'depth_coefficient': depth, 'depthwise_padding': symmetric}
  hidden = int(max(8, (1280 * width + 4) // 8 * 8))
  config = transformers.EfficientNetConfig(**sizes, hidden_dim=hidden, num_labels=7)
  name = 'EfficientNetForImageClassification' if classes else 'EfficientNetModel'
  module = getattr(transformers, name)(config)
  for part in module.modules():
    if isinstance(part, torch.nn.BatchNorm2d):
      torch.nn.init.ones_(part.weight)  # which transformers draws near 0, where no signal would be left
  module = randomised(module, gain=1.7)
  body = module.efficientnet if classes else module
  processor = transformers.EfficientNetImageProcessor(do_resize=False, image_mean=MEAN, image_std=STD)
  image, _ = example(shape)
  x = processor(list(torch.tensor(image.transpose(0, 3, 1, 2))), return_tensors='pt')['pixel_values']
  with torch.no_grad():
    hidden = body(x, output_hidden_states=True)
    ends = np.cumsum([int(np.ceil(n * depth)) for n in REPEATS])
    theirs = {f'stage{i}': hidden.hidden_states[end] for i, end in enumerate(ends, 1)}
    theirs |= {'stem': hidden.hidden_states[0], 'embed': hidden.pooler_output}
    if classes:
      theirs['logits'] = module(x).logits
  files = {'preprocessor_config.json': processor.to_dict()}
  agree(published('efficientnet', module, {'image': image}, classes, files), theirs)


@pytest.mark.parametrize(
  ('name', 'shape'),
  [
    ('efficientnet_b0', (64, 96)),
    ('efficientnet_b2', (57, 64)),
    ('tf_efficientnet_b0', (57, 64)),
    ('tf_efficientnet_b1', (64, 80)),
  ],
)
def test_timm(published, agree, randomised, name, shape):
  module, (image, x) = randomised(timm.create_model(name, num_classes=7), gain=1.7), example(shape)
  theirs = {}
  with torch.no_grad():
    theirs['stem'] = y = module.bn1(module.conv_stem(x))
    for i, stage in enumerate(module.blocks, 1):
      theirs[f'stage{i}'] = y = stage(y)
    theirs['embed'] = module.forward_head(module.forward_features(x), pre_logits=True)
    theirs['logits'] = module(x)
  config = {'architecture': name, 'num_classes': 7, 'pretrained_cfg': SCALING}
  agree(published('efficientnet', module, {'image': image}, 7, {'config.json': config}), theirs)


def test_torchvision(published, agree, randomised):
  module = randomised(torchvision.models.efficientnet_b0(num_classes=7), gain=1.7)
  image, x = example((64, 80))
  theirs, y = {}, x
  with torch.no_grad():
    for i, layer in enumerate(module.features[:-1]):
      theirs[f'stage{i}' if i else 'stem'] = y = layer(y)
    theirs |= {'embed': module.features(x).mean((2, 3)), 'logits': module(x)}
  config = {'architecture': 'efficientnet_b0', 'num_classes': 7, 'pretrained_cfg': SCALING}
  agree(published('efficientnet', module, {'image': image}, 7, {'config.json': config}), theirs)
