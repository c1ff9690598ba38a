"""Checkpoints that people bring: a folder is inferred as its own model, every tensor is used or named."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import hf_folders
from hf_folder_cases import CASES, LEFT_OUT, saved
from kdjax import pretrained
from kdjax.errors import KdjaxError


@pytest.mark.parametrize('name', CASES)
def test_a_folder_is_inferred_and_loaded(tmp_path, name):
  model, tensors, batch, classes = saved(tmp_path, name)
  assert pretrained.architecture(str(tmp_path)) == {'model': model}
  config, net, variables = hf_folders.load(tmp_path, batch, classes)
  taps = jax.jit(net.apply)(variables, batch)
  assert all(np.isfinite(x).all() for x in taps.values())
  assert taps['logits'].shape[-1] == classes or model == 'llama'
  read = {k: x for k, x in tensors.items() if not k.endswith(LEFT_OUT)}
  sizes = [sum(x.size for x in tree) for tree in (jax.tree.leaves(variables), read.values())]
  assert sizes[0] == sizes[1]

  def refuse(match, changed):
    save_file(changed, tmp_path / 'model.safetensors')
    with pytest.raises(KdjaxError, match=match) as error:
      hf_folders.load(tmp_path, batch, classes)
    assert '\n' not in str(error.value)

  refuse('[1-3] extra .another.weight', tensors | {'another.weight': np.ones(2)})
  for key in list(read)[:: max(len(read) // 6, 1)]:
    refuse('missing', {k: x for k, x in tensors.items() if k != key})


TIMM = {
  'resnet50': 'resnet_imagenet',
  'convnextv2_base.fcmae': 'convnext',
  'vit_tiny_patch16_224': 'vit_class_token',
  'swin_base_patch4_window12_384.ms_in1k': 'swin',
  'resnetv2_50x1_bit': 'bit_resnet',
  'tf_efficientnet_lite0': 'efficientnet_lite',
  'eva02_large_patch14_448.mim_m38m_ft_in22k_in1k': 'eva02',
  'tf_efficientnet_b7.ns_jft_in1k': 'efficientnet',
  'tf_mobilenetv3_large_minimal_100.in1k': 'mobilenet_v3',
  'mobilenet_v3_large': 'mobilenet_v3',
  'mobilenetv4_conv_large.e600_r384_in1k': 'mobilenet_v4',
}


@pytest.mark.parametrize('architecture', TIMM)
def test_a_folder_of_timm_is_inferred(tmp_path, architecture):
  hf_folders.write(tmp_path, {'x': (1,)}, {'architecture': architecture})
  assert pretrained.architecture(str(tmp_path)) == {'model': TIMM[architecture]}


KINDS = {
  'siglip': 'siglip',
  'siglip2': 'siglip',
  'clap': 'clap',
  'clip': 'clip',
  'gpt2': 'gpt2',
  'idefics3': 'vision_language',
  'smolvlm': 'vision_language',
  'whisper': 'whisper_encoder',
  'audio-spectrogram-transformer': 'ast',
  'vit': 'vit_class_token',
  'deit': 'vit_class_token',
  'resnet': 'resnet_imagenet',
  'distilbert': 'bert',
  'camembert': 'bert',
}


@pytest.mark.parametrize('kind', KINDS)
def test_each_model_type_is_of_one_model(tmp_path, kind):
  hf_folders.write(tmp_path, {'x': (1,)}, {'model_type': kind})
  assert pretrained.architecture(str(tmp_path)) == {'model': KINDS[kind]}


@pytest.mark.parametrize('config_json', [{}, {'model_type': 'mamba'}, {'architecture': 'vgg16'}])
def test_a_folder_that_no_model_reads(tmp_path, config_json):
  hf_folders.write(tmp_path, {'x': (1,)}, config_json)
  with pytest.raises(KdjaxError, match='of which architecture is') as error:
    pretrained.architecture(str(tmp_path))
  assert '\n' not in str(error.value)
