"""MobileNetV3, V4 and EfficientNet: the names of every library, and what is refused."""

import re

import numpy as np
import pytest

import hf_folders
import mobile_folders
from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.models.vision.efficientnet import Efficientnet
from kdjax.pretrained import block_names, efficientnet, mobilenet_v3, mobilenet_v4
from torch_files import entry, state, zipped

EFFICIENT = {'model_type': 'efficientnet'}


def drawn(shapes):
  rng = np.random.default_rng(0)
  return {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


def torchvision_of(tensors):
  """timm's tensors of MobileNetV3 in the names of torchvision."""
  outer = {'conv_stem': 'features.0.0', 'bn1': 'features.0.1', 'blocks.5.0.conv': 'features.12.0'}
  outer |= {'blocks.5.0.bn1': 'features.12.1', 'conv_head': 'classifier.0', 'classifier': 'classifier.3'}
  places = sorted({m[0] for name in tensors if (m := re.match(r'blocks\.[0-4]\.\d+', name))})
  renamed = {}
  for name, x in tensors.items():
    module, _, leaf = name.rpartition('.')
    if module in outer:
      new, x = outer[module], x[..., 0, 0] if x.ndim == 4 and module == 'conv_head' else x
    else:
      _, i, j, part = module.split('.', 3)
      whole = f'blocks.{i}.{j}.bn3.bias' in tensors
      squeezed = f'blocks.{i}.{j}.se.conv_reduce.bias' in tensors
      convs = ('conv_pw', 'conv_dw', 'conv_pwl') if whole else ('conv_dw', 'conv_pw')
      if part.startswith('se'):
        at = f'{len(convs) - 1}.fc{1 if part.endswith("reduce") else 2}'
      else:
        at = convs.index(part) if part in convs else int(part[2:]) - 1
        at = f'{at + (squeezed and at == len(convs) - 1)}.{int(part not in convs)}'
      new = f'features.{places.index(f"blocks.{i}.{j}") + 1}.block.{at}'
    renamed[f'{new}.{leaf}'] = x
  return renamed


def test_both_names_of_mobilenet_v3(tmp_path):
  tensors = drawn(mobile_folders.mobilenet_v3())
  other = torchvision_of(tensors)
  assert {'features.1.block.1.fc1.weight', 'features.2.block.2.0.weight'} < other.keys()
  model = {'model': 'mobilenet_v3', 'size': 'small', 'width': 0.5, 'num_classes': 3}
  ours = {'torch': True, 'num_classes': 3}
  one = mobilenet_v3.convert(tensors, ours | {'eps': 1e-5})
  two = mobilenet_v3.convert(other, ours | {'eps': 1e-3})
  assert one.keys() == two.keys() and all((one[k] == two[k]).all() for k in one)
  path = zipped(
    tmp_path / 'mobilenet_v3_small.pth', state(**{k: entry(k, x) for k, x in other.items()}), other
  )
  like = hf_folders.shapes(model, mobile_folders.IMAGE)
  loaded = pretrained.load(str(path), model, like)  # the defaults are torchvision's
  assert (loaded['params']['head']['linear']['kernel'] == tensors['classifier.weight'].T).all()
  with pytest.raises(KdjaxError, match='names of torchvision, whose eps is 0.001, and .* 1e-05: set its eps'):
    pretrained.load(str(path), model | {'eps': 1e-5}, like)
  with pytest.raises(KdjaxError, match='names of timm, whose eps is 1e-05, and the model has 0.001: set'):
    mobilenet_v3.convert(tensors, ours | {'eps': 1e-3})
  with pytest.raises(KdjaxError, match='whose torch is True, and the model has False: set its torch to True'):
    mobilenet_v3.convert(other, ours | {'torch': False, 'eps': 1e-3})


def test_blocks_in_one_row():
  """Stages and blocks are counted as numbers, and a module that no block has keeps its name."""
  names = [f'blocks.{i}.{j}.conv_dw.weight' for i, j in ((10, 0), (2, 11), (2, 3))]
  row = block_names.in_one_row({name: np.zeros((n + 1, 1)) for n, name in enumerate(names)})
  assert [len(row[f'block{i}/depthwise.weight']) for i in (1, 2, 3)] == [3, 2, 1]
  twice = {f'features.1.block.{i}.fc1.weight': np.zeros(1) for i in (1, 2)}
  assert list(block_names.in_one_row(twice)) == [
    'block1/squeeze/reduce.weight',
    'features.1.block.2.fc1.weight',
  ]
  for name in (
    'blocks.0.0.attn.weight',
    f'blocks.{"9" * 5000}.0.conv_dw.weight',
    'features.1.block.x.0.weight',
  ):
    assert list(block_names.in_one_row({name: np.zeros(1)})) == [name]


@pytest.mark.parametrize(
  ('model', 'config_json', 'match'),
  [
    ('mobilenet_v3', {'architecture': 'mobilenetv3_large_150d'}, 'unknown architecture .* mobilenet_v3'),
    ('mobilenet_v3', {'architecture': 'mobilenetv3_rw'}, 'unknown architecture for the model mobilenet_v3'),
    (
      'mobilenet_v3',
      {'architecture': 'mobilenetv3_large_100', 'model_args': {'bn_eps': 1e-3}},
      'bn_eps 0.001 for mobilenetv3_large_100: the model mobilenet_v3 does not support it',
    ),
    (
      'mobilenet_v4',
      {'architecture': 'mobilenetv4_hybrid_medium.e500_r224_in1k'},
      'unknown architecture for the model mobilenet_v4: .*medium.e500_r224_in1k.; .* mobilenetv4_conv_medium',
    ),
    (
      'mobilenet_v4',
      {'architecture': 'mobilenetv4_conv_blur_medium'},
      'unknown architecture .* mobilenet_v4',
    ),
    (
      'efficientnet',
      {'architecture': 'efficientnet_b0_gn'},
      'unknown architecture for the model efficientnet',
    ),
    ('efficientnet', {'model_type': 'efficientnetv2'}, 'unknown model_type for the model efficientnet'),
    (
      'efficientnet',
      EFFICIENT | {'pooling_type': 'max'},
      "pooling_type 'max'; the model efficientnet has 'mean'",
    ),
    (
      'efficientnet',
      EFFICIENT | {'depth_coefficient': 0},
      'depth_coefficient is 0; it has to be a number above 0',
    ),
    ('efficientnet', EFFICIENT | {'depthwise_padding': [-1]}, 'depthwise_padding is'),
    (
      'efficientnet',
      EFFICIENT | {'width_coefficient': 0.25},
      'has width_coefficient 0.25: the model efficientnet',
    ),
  ],
)
def test_a_config_that_is_refused(tmp_path, model, config_json, match):
  hf_folders.write(tmp_path, {'x': (1,)}, config_json)
  with pytest.raises(KdjaxError, match=match) as error:
    pretrained.complete(str(tmp_path), {'model': model})
  assert '\n' not in str(error.value)


def test_the_config_of_mobilenet_v3(tmp_path):
  def config(name):
    return mobilenet_v3.config({'architecture': name}, tmp_path)

  small = {'size': 'small', 'width': 0.75, 'minimal': False, 'torch': True, 'eps': 1e-5}
  assert config('mobilenetv3_small_075.lamb_in1k') == small
  minimal = config('tf_mobilenetv3_large_minimal_100.in1k')
  assert (
    minimal['minimal'] and minimal['eps'] == 1e-3 and not minimal['torch'] and minimal['mean'] == (0.5,) * 3
  )
  assert config('mobilenet_v3_large') == {'size': 'large', 'torch': True, 'eps': 1e-3}


def test_the_config_of_mobilenet_v4(tmp_path):
  def config(name):
    return list(mobilenet_v4.config({'architecture': name}, tmp_path).values())

  assert config('mobilenetv4_conv_small_050.e3000_r224_in1k') == ['small', 0.5, False, 1e-5]
  assert config('mobilenetv4_conv_large.e600_r384_in1k') == ['large', 1, False, 1e-5]
  assert config('mobilenetv4_conv_aa_large.e600_r384_in1k') == ['large', 1, True, 1e-5]


def test_the_config_of_efficientnet(tmp_path):
  def config(**config_json):
    return efficientnet.config(config_json, tmp_path)

  b7 = {'width': 2.0, 'depth': 3.1, 'eps': 1e-3}
  assert config(model_type='efficientnet') == b7 | {'symmetric': ()}
  assert config(model_type='efficientnet', depthwise_padding=[5, 18])['symmetric'] == (5, 18)
  assert config(architecture='tf_efficientnet_b7.ns_jft_in1k') == b7 | {'torch': False}
  assert config(architecture='efficientnet_b0.ra_in1k') == {
    'width': 1,
    'depth': 1,
    'torch': True,
    'eps': 1e-5,
  }


@pytest.mark.parametrize(
  ('name', 'attributes', 'match'),
  [
    (
      'features.0.0',
      {'torch': False, 'eps': 1e-3},
      'names of torchvision, whose torch is True, and the model',
    ),
    (
      'features.0.0',
      {'torch': True, 'eps': 1e-5, 'width': 2.0},
      'whose eps is 0.001, and the model has 1e-05',
    ),
    ('conv_stem', {'torch': True, 'eps': 1e-3}, 'names of timm, whose eps is 1e-05, and the model has 0.001'),
    (
      'conv_stem',
      {'torch': False, 'eps': 1e-5},
      'names of timm, whose eps is 0.001, and the model has 1e-05',
    ),
  ],
)
def test_norms_of_another_library_are_one_line(name, attributes, match):
  """Without a config.json, the names of the tensors say which libraries they may be of."""
  with pytest.raises(KdjaxError, match=match):
    efficientnet.convert({f'{name}.weight': np.zeros(1)}, {'width': 1.0, 'num_classes': 3} | attributes)


@pytest.mark.parametrize(
  ('attributes', 'kernel', 'block', 'padding'),
  [
    ({}, 5, 2, 'SAME'),
    ({'torch': True}, 5, 2, 2),
    ({'symmetric': (2,)}, 5, 2, ((2, 2), (2, 2))),
    ({'symmetric': (2,)}, 5, 3, ((1, 2), (1, 2))),
    ({'symmetric': ()}, 3, -1, ((0, 1), (0, 1))),
  ],
)
def test_paddings_of_efficientnet(attributes, kernel, block, padding):
  assert Efficientnet(**attributes).padding(kernel, block) == padding


def test_an_image_of_which_nothing_would_be_left():
  with pytest.raises(KdjaxError, match='takes images of 32×32 or more, and the data have 16×24'):
    hf_folders.shapes({'model': 'efficientnet', 'symmetric': ()}, mobile_folders.IMAGE)
