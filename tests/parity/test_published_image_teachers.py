"""Published image classifiers as `teacher.init`, of every converter, against their libraries, end to end.

A model of random weights is saved as its library saves it; the recipe names the folder or file and neither
num_classes nor mean and std, and the teacher has to give the logits and the accuracy that the library gives.
"""

import importlib

import numpy as np
import pytest
from PIL import Image
from test_cifar_checkpoints import CASES as CIFAR
from test_cifar_checkpoints import MEAN as CIFAR_MEAN
from test_cifar_checkpoints import STD as CIFAR_STD
from test_published_teachers import close, labels, recipe, table, taught

from configs.tables import imagenet_dist_dkd
from kdjax.experiment import load, validate
from kdjax.experiment.experiment import Experiment
from kdjax.types import DataSet

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.parity
CLASSES = 3
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZES = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 48}


def pictures(side, rows=24):
  """Random images of random contrast and brightness, so that a shift of the mean is seen."""
  rng = np.random.default_rng(1)
  image = rng.integers(0, 256, (rows, side, side, 3)) * rng.uniform(0.2, 1, (rows, 1, 1, 3))
  return image.astype(np.uint8)


def scaled(image, mean, std):
  x = torch.tensor(image.transpose(0, 3, 1, 2)) / 255
  return (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def check(tmp_path, init, model, image, logits):
  """That the teacher of a table of these images gives the logits, and the accuracy of their arg max."""
  truth, rows = labels(logits), []
  for i, (x, y) in enumerate(zip(image, truth, strict=True)):
    Image.fromarray(x).save(tmp_path / f'{i}.png')
    rows.append({'image': f'{i}.png', 'label': str(y)})
  assert set(truth) == set(range(CLASSES))
  exp = recipe(init, model, name='manifest', path=table(tmp_path / 'rows.jsonl', rows))
  exp.student.model = {'model': 'mlp', 'hidden': (4,)}
  taps, scores, _ = taught(exp, tmp_path / 'w')
  close(taps['logits'], logits)
  right = float((logits.argmax(-1).numpy() == truth).mean())
  assert 0.4 < right < 1 and scores['top1'] == pytest.approx(right, abs=1e-6)


def spread(module, x):
  """The logits of the module, after its norms and its last layer have got the statistics of these images.

  A network of random weights forgets its image: the same answer to all of them would show nothing.
  """
  norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
  kinds = torch.nn.Linear | torch.nn.Conv2d
  last = [m for m in module.modules() if isinstance(m, kinds) and m.weight.shape[0] == CLASSES]
  with torch.no_grad():
    for norm in norms:
      norm.reset_running_stats()
      norm.momentum = None  # the mean over all batches, which is one
      norm.train()
    module(x)
    module.eval()
    result = module(x)
    logits = getattr(result, 'logits', result)
    for layer in last:
      layer.weight.div_(logits.std(0).view(-1, *[1] * (layer.weight.ndim - 1)))
      layer.bias.copy_((layer.bias - logits.mean(0)) / logits.std(0))
    result = module(x)
  return getattr(result, 'logits', result)


@pytest.mark.parametrize(
  ('name', 'model', 'side', 'options'),
  [
    ('resnet18', 'resnet_imagenet', 32, {}),
    ('efficientnet_lite0', 'efficientnet_lite', 64, {}),
    ('tf_efficientnet_lite0', 'efficientnet_lite', 64, {}),
    ('efficientnet_b0', 'efficientnet', 64, {}),
    ('tf_efficientnet_b0', 'efficientnet', 64, {}),
    ('mobilenetv3_small_050', 'mobilenet_v3', 64, {}),
    ('mobilenetv4_conv_small_050', 'mobilenet_v4', 64, {}),
    ('resnetv2_50x1_bit', 'bit_resnet', 32, {}),
    ('eva02_tiny_patch14_224', 'eva02', 56, {'img_size': 56, 'depth': 2}),
    ('vit_tiny_patch16_224', 'vit_class_token', 32, {'img_size': 32, 'depth': 2}),
    ('deit_tiny_patch16_224', 'vit_class_token', 32, {'img_size': 32, 'depth': 2}),
    ('deit_tiny_distilled_patch16_224', 'vit_class_token', 32, {'img_size': 32, 'depth': 2}),
  ],
)
def test_timm(tmp_path, randomised, name, model, side, options):
  timm = pytest.importorskip('timm')
  module, image = randomised(timm.create_model(name, num_classes=CLASSES, **options)), pictures(side)
  cfg = module.pretrained_cfg
  logits = spread(module, scaled(image, cfg['mean'], cfg['std']))
  timm.models.save_for_hf(module, tmp_path / 'model')
  check(tmp_path, tmp_path / 'model', {'model': model}, image, logits)


@pytest.mark.parametrize(
  ('name', 'model'),
  [
    ('resnet18', {'model': 'resnet_imagenet', 'depth': 18}),
    ('mobilenet_v3_small', {'model': 'mobilenet_v3', 'size': 'small'}),
    ('efficientnet_b0', {'model': 'efficientnet', 'torch': True, 'eps': 1e-5}),
  ],
)
def test_torchvision(tmp_path, randomised, name, model):
  pytest.importorskip('torchvision')
  models = importlib.import_module('torchvision.models')
  module, image = randomised(getattr(models, name)(num_classes=CLASSES)), pictures(32)
  logits = spread(module, scaled(image, *IMAGENET))
  torch.save(module.state_dict(), tmp_path / 'model.pth')
  check(tmp_path, tmp_path / 'model.pth', model, image, logits)


@pytest.mark.parametrize('layer', ['basic', 'bottleneck'])
def test_resnets_of_transformers(tmp_path, randomised, layer):
  transformers = pytest.importorskip('transformers')
  narrow, depths = ([64, 128, 256, 512], [2, 2, 2, 2]) if layer == 'basic' else (None, [3, 4, 6, 3])
  sizes = {'hidden_sizes': narrow} if narrow else {}
  config = transformers.ResNetConfig(**sizes, depths=depths, layer_type=layer, num_labels=CLASSES)
  module, image = randomised(transformers.ResNetForImageClassification(config)), pictures(32)
  scaling = {'image_mean': [0.4, 0.5, 0.3], 'image_std': [0.2, 0.3, 0.25]}
  reader = transformers.ConvNextImageProcessor(size={'shortest_edge': 32}, crop_pct=1.0, **scaling)
  logits = spread(module, reader(list(image), return_tensors='pt').pixel_values)
  module.save_pretrained(tmp_path / 'model')
  reader.save_pretrained(tmp_path / 'model')
  check(tmp_path, tmp_path / 'model', {'model': 'resnet_imagenet'}, image, logits)


def test_efficientnet_of_transformers(tmp_path, randomised):
  """Its processor divides by the deviations twice."""
  transformers = pytest.importorskip('transformers')
  sizes = {'width_coefficient': 0.5, 'depth_coefficient': 0.5, 'hidden_dim': 640}
  config = transformers.EfficientNetConfig(**sizes, num_labels=CLASSES)
  module, image = randomised(transformers.EfficientNetForImageClassification(config), 0.2), pictures(64)
  scaling = {'image_mean': [0.4, 0.5, 0.3], 'image_std': [0.5, 0.6, 0.55]}
  reader = transformers.EfficientNetImageProcessor(size={'height': 64, 'width': 64}, **scaling)
  logits = spread(module, reader(list(image), return_tensors='pt').pixel_values)
  module.save_pretrained(tmp_path / 'model')
  reader.save_pretrained(tmp_path / 'model')
  check(tmp_path, tmp_path / 'model', {'model': 'efficientnet'}, image, logits)


@pytest.mark.parametrize('kind', ['ViT', 'DeiT', 'DeiTWithTeacher'])
def test_transformers(tmp_path, randomised, kind):
  transformers = pytest.importorskip('transformers')
  name, more = kind.removesuffix('WithTeacher'), 'WithTeacher' if kind.endswith('Teacher') else ''
  config = getattr(transformers, f'{name}Config')(**SIZES, image_size=32, patch_size=8, num_labels=CLASSES)
  module = randomised(getattr(transformers, f'{name}ForImageClassification{more}')(config))
  size = {'height': 32, 'width': 32}
  scaling = {'image_mean': [0.4, 0.5, 0.3], 'image_std': [0.2, 0.3, 0.25]}
  reader = getattr(transformers, f'{name}ImageProcessor')(size=size, crop_size=size, **scaling)
  image = pictures(32)
  logits = spread(module, reader(list(image), return_tensors='pt').pixel_values)
  module.save_pretrained(tmp_path / 'model')
  reader.save_pretrained(tmp_path / 'model')
  check(tmp_path, tmp_path / 'model', {'model': 'vit_class_token'}, image, logits)


def test_timm_in_transformers(tmp_path, randomised):
  pytest.importorskip('timm')
  transformers = pytest.importorskip('transformers')
  config = transformers.TimmWrapperConfig(architecture='efficientnet_lite0', num_labels=CLASSES)
  module, image = randomised(transformers.TimmWrapperForImageClassification(config)), pictures(64)
  logits = spread(module, scaled(image, *IMAGENET))
  module.save_pretrained(tmp_path / 'model')
  check(tmp_path, tmp_path / 'model', {'model': 'efficientnet_lite'}, image, logits)


class Logits(torch.nn.Module):
  def __init__(self, module):
    super().__init__()
    self.module = module

  def forward(self, x):
    return self.module(x)['logits']


@pytest.mark.parametrize('name', [name for name in CIFAR if name not in ('wrn_40_2', 'vgg19')])
def test_the_authors_of_cifar_checkpoints(tmp_path, randomised, monkeypatch, name):
  model, attributes, make = CIFAR[name]
  linear = torch.nn.Linear
  monkeypatch.setattr(torch.nn, 'Linear', lambda i, o: linear(i, CLASSES if o == 7 else o))
  module = make()
  monkeypatch.undo()
  randomised(module)
  mean, std = (x.flatten().tolist() for x in (CIFAR_MEAN, CIFAR_STD))
  image = pictures(32)
  logits = spread(Logits(module), scaled(image, mean, std))
  torch.save({'epoch': 240, 'model': module.state_dict()}, tmp_path / 'model.pth')
  check(tmp_path, tmp_path / 'model.pth', {'model': model} | attributes, image, logits)


@pytest.mark.parametrize(('name', 'depth'), zip(imagenet_dist_dkd.PAIRS, (34, 50), strict=True))
def test_the_table_of_imagenet_passes_the_checks(tmp_path, monkeypatch, capsys, name, depth):
  """Its teachers come from the hub by name alone; here from a folder of the same files."""
  timm = pytest.importorskip('timm')
  timm.models.save_for_hf(timm.create_model(f'resnet{depth}'), tmp_path / 'model')
  rows = [{'image': x, 'label': i, 'id': i} for i, x in enumerate(pictures(40, 4))]
  named = tuple(f'n{i:08}' for i in range(1000))
  dataset = DataSet({'train': rows, 'validation': rows}, named, 'made')
  monkeypatch.setattr(load, 'dataset', lambda *_: dataset)
  config = imagenet_dist_dkd.experiment(name, 'paper').to_dict()
  assert config['teacher']['init'].startswith(f'hf:timm/resnet{depth}')
  assert 'num_classes' not in config['teacher']['model']
  config['teacher']['init'] = str(tmp_path / 'model')
  validate.check(Experiment(config, tmp_path / 'w'))
  message = ' '.join(capsys.readouterr().out.split())
  assert '(0.229, 0.224, 0.225) (of config.json), trained on 224×224' in message
