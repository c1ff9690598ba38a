"""Published image classifiers as teachers: their classes and how they read images come from their files."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.pretrained import images

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TIMM = {'input_size': [3, 32, 32], 'mean': MEAN, 'std': STD, 'crop_pct': 0.875, 'interpolation': 'bicubic'}


def resnet(classes, seed=0):
  """A ResNet-18 in torch's names, random, a few values of each tensor."""
  rng, tensors = np.random.default_rng(seed), {}

  def conv(name, out, into, kernel):
    tensors[f'{name}.weight'] = rng.normal(0, 0.05, (out, into, kernel, kernel)).astype(np.float32)

  def norm(name, width):
    for key, value in {'weight': 1, 'bias': 0, 'running_mean': 0, 'running_var': 1}.items():
      tensors[f'{name}.{key}'] = np.full(width, value, np.float32)

  conv('conv1', 64, 3, 7)
  norm('bn1', 64)
  before = 64
  for stage, width in enumerate((64, 128, 256, 512), 1):
    for block in range(2):
      name = f'layer{stage}.{block}'
      conv(f'{name}.conv1', width, before, 3)
      conv(f'{name}.conv2', width, width, 3)
      norm(f'{name}.bn1', width)
      norm(f'{name}.bn2', width)
      if before != width:
        conv(f'{name}.downsample.0', width, before, 1)
        norm(f'{name}.downsample.1', width)
      before = width
  tensors['fc.weight'] = rng.normal(0, 0.05, (classes, 512)).astype(np.float32)
  tensors['fc.bias'] = np.zeros(classes, np.float32)
  return tensors


@pytest.fixture
def checkpoint(tmp_path):
  """A folder as timm's push_to_hf_hub leaves it, of 5 classes."""
  save_file(resnet(5), tmp_path / 'model.safetensors')
  config = {'architecture': 'resnet18', 'num_classes': 5, 'pretrained_cfg': TIMM}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  return tmp_path


def teacher(folder, classes):
  """(the complete config of the model, its shapes) where the data have so many classes."""
  model = pretrained.complete(str(folder), {'model': 'resnet_imagenet'})
  net = build.module(model, {'num_classes': classes})
  batch = {'image': np.zeros((1, 32, 32, 3), np.uint8)}
  return model, net, jax.eval_shape(lambda b: net.init({'params': jax.random.key(0)}, b, train=False), batch)


def test_a_classifier_is_read_without_num_classes(checkpoint, capsys):
  """The data have as many classes; the recipe does not say how many."""
  model, _, like = teacher(checkpoint, 5)
  assert 'num_classes' not in model
  variables = pretrained.load(str(checkpoint), model, like)
  np.testing.assert_array_equal(variables['params']['head']['linear']['kernel'], resnet(5)['fc.weight'].T)
  message = capsys.readouterr().out
  assert all(part in message for part in ('32×32', 'the middle 87.5 %', '0.485')), message


def test_another_number_of_classes_is_one_line(checkpoint):
  model, _, like = teacher(checkpoint, 7)
  with pytest.raises(KdjaxError, match='has 5 classes, and the data set has 7'):
    pretrained.load(str(checkpoint), model, like)


def test_a_checkpoint_without_a_classifier_is_one_line(checkpoint):
  tensors = {k: v for k, v in resnet(5).items() if not k.startswith('fc.')}
  save_file(tensors, checkpoint / 'model.safetensors')
  model, _, like = teacher(checkpoint, 5)
  with pytest.raises(KdjaxError, match='has no classifier, and the data set has 5'):
    pretrained.load(str(checkpoint), model, like)


@pytest.mark.parametrize(
  ('model', 'config', 'folder'),
  [
    ('resnet_imagenet', {'architecture': 'resnet18', 'pretrained_cfg': TIMM}, {}),
    ('efficientnet_lite', {'architecture': 'efficientnet_lite0', 'pretrained_cfg': TIMM}, {}),
    ('efficientnet_lite', {'architecture': 'tf_efficientnet_lite0', **TIMM}, {}),
    ('bit_resnet', {'architecture': 'resnetv2_50x1_bit', 'pretrained_cfg': TIMM}, {}),
    ('vit_class_token', {'architecture': 'vit_tiny_patch16_224', 'pretrained_cfg': TIMM}, {}),
    ('vit_class_token', {'model_type': 'vit'}, {'image_mean': MEAN, 'image_std': STD}),
  ],
)
def test_mean_and_std_are_those_of_the_checkpoint(tmp_path, model, config, folder):
  (tmp_path / 'config.json').write_text(json.dumps(config))
  (tmp_path / 'model.safetensors').touch()
  if folder:
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(folder))
  complete = pretrained.complete(str(tmp_path), {'model': model})
  assert complete['mean'] == tuple(MEAN) and complete['std'] == tuple(STD)
  build.module(complete, {})


@pytest.mark.whole
def test_pixels_go_through_mean_and_std():
  """A model of one's own mean and std gives what the default gives on the pixels that these make alike."""
  nets = [
    build.module({'model': 'efficientnet_lite', 'num_classes': 3, **m}, {})
    for m in ({}, {'mean': MEAN, 'std': STD})
  ]
  image = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
  same = ((image / 2 + 0.5 - MEAN) / STD).astype(np.float32)
  variables = jax.jit(nets[0].init)(jax.random.key(0), {'image': image})
  a, b = (
    jax.jit(net.apply)(variables, {'image': x})['stem'] for net, x in zip(nets, (same, image), strict=True)
  )
  np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    ({'rescale_offset': True}, 'rescale_offset, which is not done'),
    ({'rescale_factor': 1 / 127.5}, 'no image_mean and image_std'),
    ({'rescale_factor': 'x'}, 'rescale_factor is'),
    ({'image_mean': 'grey'}, 'image_mean is'),
    ({'image_mean': [0.5, 0.5]}, '2 values in image_mean'),
    ({'image_std': [0, 1, 1]}, 'image_std is'),
    ({'size': {'height': -1}}, 'size is'),
    ({'size': 224, 'resample': 'bicubic'}, 'has resample'),
  ],
)
def test_a_scaling_that_no_model_does_is_one_line(tmp_path, given, said):
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps(given))
  with pytest.raises(KdjaxError, match=said):
    images.scaling({}, tmp_path)


def test_images_that_are_not_normalised_stay_as_they_are(tmp_path):
  (tmp_path / 'preprocessor_config.json').write_text('{"do_normalize": false}')
  assert images.scaling({}, tmp_path) == {'mean': (0, 0, 0), 'std': (1, 1, 1)}
