"""DINOv2, EVA-02, ConvNeXt, Swin and wav2vec 2.0: positions, windows, padding, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hf_folders
from hf_folder_cases import CASES, saved
from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.models.audio import wav2vec2 as wav2vec2_model
from kdjax.models.vision import dinov2 as dinov2_model
from kdjax.models.vision import eva02 as eva02_model
from kdjax.models.vision import swin as swin_model
from kdjax.pretrained import initialize


def test_the_positions_of_dinov2():
  """Cubic weights sum to one, and keep a linear ramp away from its ends; the same size is left alone."""
  weights = dinov2_model.cubic(9, 5)
  np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
  np.testing.assert_allclose(dinov2_model.cubic(7, 7), np.eye(7), atol=1e-12)
  np.testing.assert_allclose((weights @ np.arange(9))[1:-1], (np.arange(1, 4) + 0.5) * 1.8 - 0.5, atol=0.2)
  table = jnp.arange(9.0).reshape(1, 9, 1)
  assert dinov2_model.resized(table, (3, 3), True) is table
  for antialias in (True, False):
    assert dinov2_model.resized(table, (2, 5), antialias).shape == (1, 10, 1)


@pytest.mark.parametrize(
  'name, changes, match',
  [
    ('dinov2', {'qkv_bias': False}, 'qkv_bias False; the model dinov2 has True only'),
    ('dinov2', {'mlp_ratio': 0}, 'mlp_ratio is 0; it has to be a whole number from 1'),
    ('dinov2', {'model_type': None}, "unknown model_type for the model dinov2: ''"),
    ('convnext', {'num_channels': 1}, 'num_channels 1; the model convnext has 3 only'),
    ('convnext', {'model_type': None}, "unknown model_type for the model convnext: ''"),
    ('convnext', {'architecture': 'convnext_tiny_ols'}, 'unknown architecture for the model convnext'),
    (
      'convnext',
      {'architecture': 'convnext_tiny', 'model_args': {'dims': 3}},
      'dims is 3; it has to be a list',
    ),
    ('convnext', {'architecture': 'convnext_tiny', 'model_args': {'stem_type': 'x'}}, 'stem_type'),
    (
      'eva02',
      {'architecture': 'eva02_enormous_patch14_clip_224'},
      'unknown architecture for the model eva02',
    ),
    ('eva02', {'architecture': 'eva02_base_patch14_448', 'global_pool': 'token'}, "global_pool 'token' for"),
    ('eva02', {'global_pool': 'avg'}, "global_pool 'avg' for eva02_base_patch16_clip_224"),
    ('eva02', {'model_args': {'num_heads': 0}}, 'num_heads is 0; it has to be a whole number from 1'),
    ('eva02', {'model_args': {'qkv_fused': True}}, 'qkv_fused True for eva02_base_patch16_clip_224'),
  ],
)
def test_a_config_of_images_that_is_refused(tmp_path, name, changes, match):
  model, _, config_json, _, _ = CASES[name]
  hf_folders.write(tmp_path, {'x': (1,)}, config_json | changes)
  with pytest.raises(KdjaxError, match=match) as error:
    pretrained.complete(str(tmp_path), {'model': model})
  assert '\n' not in str(error.value)


def test_the_rotary_positions_of_eva02(tmp_path):
  """By row and column, on a scale of its own; both orders of a head's features have the same scores."""
  angles = eva02_model.grid_angles((2, 4), 8, 8)
  assert angles.shape == (9, 4) and not angles[0].any()
  np.testing.assert_allclose(angles[1:, 0], [0, 0, 0, 0, 4, 4, 4, 4])
  np.testing.assert_allclose(angles[1:, 2], [0, 2, 4, 6, 0, 2, 4, 6])
  np.testing.assert_allclose(angles[:, 1], angles[:, 0] / 100)
  _, tensors, batch, classes = saved(tmp_path, 'eva02')
  config, net, variables = hf_folders.load(tmp_path, batch, classes)
  attention = variables['params']['block1']['attention']
  kernel, weight = (np.asarray(attention['query']['kernel']).T, tensors['blocks.0.attn.q_proj.weight'])
  np.testing.assert_array_equal(kernel[[0, 2, 1, 3, 4, 6, 5, 7]], weight)
  np.testing.assert_array_equal(attention['value']['kernel'].T, tensors['blocks.0.attn.v_proj.weight'])
  like = hf_folders.shapes(config | {'num_classes': classes}, batch)
  with pytest.raises(KdjaxError, match="has the pool 'first', and the model 'mean': set its pool to 'first'"):
    pretrained.load(str(tmp_path), config | {'pool': 'mean', 'num_classes': classes}, like)
  with pytest.raises(KdjaxError, match='width is 8; it has to be a multiple of 16, four times its heads'):
    hf_folders.shapes(config | {'heads': 4}, batch)


def test_the_windows_of_swin(tmp_path):
  """A window and back is the same map, and a shifted window attends to no other side of the map."""
  x = jnp.arange(2 * 6 * 9 * 2.0).reshape(2, 6, 9, 2)
  parts = swin_model.windows(x, 3)
  assert parts.shape == (2, 6, 9, 2)
  np.testing.assert_array_equal(swin_model.map_of(parts, 3, 6, 9), x)
  np.testing.assert_array_equal(parts[0, 1].reshape(3, 3, 2), x[0, :3, 3:6])
  table = swin_model.offsets(3)
  assert table[4, 4] == 12 and table[0, 8] == 0 and table[8, 0] == 24 and len(np.unique(table)) == 25
  near = swin_model.neighbours(6, 9, 3, 1)
  assert near[0].all() and near[-1].sum() == 4 * 4 + 2 * 2 * 2 + 1
  _, _, batch, classes = saved(tmp_path, 'swin')
  _, net, variables = hf_folders.load(tmp_path, batch, classes)
  with pytest.raises(KdjaxError, match='stage 2 of swin has 2 patches a side, and its windows 3: give it'):
    jax.eval_shape(net.apply, variables, {'image': jnp.zeros((1, 16, 16, 3))})
  with pytest.raises(KdjaxError, match='window_size is 0; it has to be a whole number from 1'):
    arguments = {'architecture': 'swin_tiny_patch4_window7_224', 'model_args': {'window_size': 0}}
    hf_folders.write(tmp_path, {'x': (1,)}, arguments)
    pretrained.complete(str(tmp_path), {'model': 'swin'})


def test_the_padding_of_a_sound(tmp_path):
  """Masked, padding changes nothing that is valid; without a mask it is silence, and is read."""
  model, shapes, config_json, batch, _ = CASES['hubert']
  other = batch | {'audio': jnp.where(batch['audio/mask'], batch['audio'], 0.7)}
  for masked in (True, False):
    files = {'preprocessor_config.json': {'return_attention_mask': masked, 'sampling_rate': 8000}}
    hf_folders.write(tmp_path, shapes, config_json, files)
    config, net, variables = hf_folders.load(tmp_path, batch, 3)
    assert config['rate'] == 8000 and config['masked'] is masked and config['scaled'] is True
    one, two = (jax.jit(net.apply)(variables, b)['logits'] for b in (batch, other))
    np.testing.assert_allclose(one[0], two[0], atol=1e-5)
    same = np.abs(one[1] - two[1]).max() < 1e-5
    assert same if masked else not same
  with pytest.raises(KdjaxError, match='rate is 8,000 samples a second, and the data have 16,000'):
    initialize.check(config, None, '', 16_000, 'teacher')
  with pytest.raises(KdjaxError, match='is not .B, N. with 20 samples or more'):
    jax.eval_shape(net.apply, variables, {'audio': jnp.zeros((1, 19))})


def test_the_distances_of_wavlm():
  table = wav2vec2_model.buckets(40, 16, 20)
  assert (np.diag(table) == 0).all() and table.max() == 15 and table.min() == 0
  assert table[0, :5].tolist() == [0, 9, 10, 11, 12] and table[:5, 0].tolist() == [0, 1, 2, 3, 4]
  assert (np.diff(table[0, 1:]) >= 0).all() and table[0, 20] == table[0, 39] == 15


@pytest.mark.parametrize(
  'name, changes, files, match',
  [
    ('hubert', {'conv_pos_batch_norm': True}, {}, 'conv_pos_batch_norm True; the model wav2vec2 has False'),
    (
      'hubert',
      {'feat_proj_layer_norm': False},
      {},
      'feat_proj_layer_norm False; the model wav2vec2 has True',
    ),
    ('wav2vec2', {'adapter_attn_dim': 16}, {}, 'adapter_attn_dim; the model wav2vec2 has no adapters'),
    ('wav2vec2', {'add_adapter': True}, {}, 'add_adapter True'),
    ('wav2vec2', {'feat_extract_norm': 'batch'}, {}, "unknown feat_extract_norm: 'batch'"),
    ('wav2vec2', {}, {'sampling_rate': 0}, 'sampling_rate is 0; it has to be a whole number from 1'),
    ('wav2vec2', {}, {'padding_value': 1.0}, 'padding_value 1.0; it has to be 0'),
    ('wav2vec2', {}, {'do_normalize': 'yes'}, "do_normalize is 'yes'; it has to be True or False"),
    ('wav2vec2', {'model_type': 'sew'}, {}, "unknown model_type for the model wav2vec2: 'sew'"),
    ('wav2vec2', {'model_type': None}, {}, "unknown model_type for the model wav2vec2: ''"),
  ],
)
def test_a_config_of_sound_that_is_refused(tmp_path, name, changes, files, match):
  config_json = CASES[name][2] | changes
  hf_folders.write(tmp_path, {'x': (1,)}, config_json, {'preprocessor_config.json': files})
  with pytest.raises(KdjaxError, match=match) as error:
    pretrained.complete(str(tmp_path), {'model': 'wav2vec2'})
  assert '\n' not in str(error.value)
