"""The names and layouts of published checkpoints, on random weights; `pytest -m parity` has the numbers."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from hf_folders import shapes
from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.pretrained import efficientnet_lite, resnet_imagenet, safetensors_io, vit_class_token
from torch_files import entry, state, stream, zipped

RNG = np.random.default_rng(0)


def drawn(wanted):
  return {k: RNG.normal(size=shape).astype(np.float32) for k, shape in wanted.items()}


LITE = {'model': 'efficientnet_lite', 'num_classes': 5}
IMAGE = {'image': jnp.zeros((1, 32, 32, 3), jnp.uint8)}


@functools.cache
def lite_shapes():
  return shapes(LITE, IMAGE)


def lite_tensors(timm):
  """Random weights under the names of one of the two ports, from the shapes that the model wants."""
  repeats = (1, 2, 2, 3, 3, 4, 1)
  places = [(i, j) for i, n in enumerate(repeats) for j in range(n)]
  rng, collected = np.random.default_rng(0), {}
  leaves = {
    'scale': 'weight',
    'kernel': 'weight',
    'bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
  }
  parts = ('expand', 'depthwise', 'project')
  outer = {
    'stem': ('_conv_stem', 'conv_stem'),
    'stem_norm': ('_bn0', 'bn1'),
    'last': ('_conv_head', 'conv_head'),
  }
  outer |= {'last_norm': ('_bn1', 'bn2'), 'head': ('_fc', 'classifier')}
  for path, shape in jax.tree_util.tree_leaves_with_path(lite_shapes()):
    keys = [p.key for p in path][1:]
    x = rng.normal(size=shape.shape).astype(np.float32)
    x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
    module, leaf = keys[0], leaves[keys[-1]]
    if module in outer:
      new = outer[module][timm]
    else:
      n, (part, _, norm) = int(module[5:]) - 1, keys[1].partition('_')
      i, j = places[n]
      at = parts.index(part)
      if not timm:
        new = f'_blocks.{n}.' + (f'_bn{at}' if norm else f'_{part}_conv')
      elif norm:
        new = f'blocks.{i}.{j}.bn{at + (i > 0)}'
      else:
        new = (
          f'blocks.{i}.{j}.'
          + (('', 'conv_dw', 'conv_pw') if not i else ('conv_pw', 'conv_dw', 'conv_pwl'))[at]
        )
    collected[f'{new}.{leaf}'] = x
    if leaf == 'running_var':
      collected[f'{new}.num_batches_tracked'] = np.zeros((), np.int64)
  return collected


def test_both_names_of_efficientnet_lite():
  one, two = (efficientnet_lite.convert(lite_tensors(timm), LITE) for timm in (False, True))
  assert one.keys() == two.keys()
  assert all((one[k] == two[k]).all() for k in one)
  safetensors_io.fit(one, lite_shapes(), 'one')
  assert lite_tensors(True)['blocks.5.3.conv_dw.weight'].shape == (1152, 1, 5, 5)


def test_a_torch_file_of_efficientnet_lite(tmp_path):
  tensors = lite_tensors(False)
  body = state(**{k: entry(k, x) for k, x in tensors.items()})
  like = lite_shapes()
  for write in (zipped, stream):
    path = write(tmp_path / 'lite.pth', body, tensors)
    loaded = pretrained.load(str(path), LITE, like)
    assert (loaded['params']['head']['linear']['kernel'] == tensors['_fc.weight'].T).all()
    assert (
      loaded['batch_stats']['block3']['depthwise_norm']['var'] == tensors['_blocks.2._bn1.running_var']
    ).all()
  with pytest.raises(KdjaxError, match='has 5 classes, and the data set has 7'):
    pretrained.load(str(path), LITE, shapes(LITE | {'num_classes': 7}, IMAGE))
  encoder = {'model': 'efficientnet_lite'}
  assert 'head' not in pretrained.load(str(path), encoder, shapes(encoder, IMAGE))['params']


def test_the_config_of_efficientnet_lite(tmp_path):
  def config(name):
    return efficientnet_lite.config({'architecture': name}, tmp_path)

  assert config('tf_efficientnet_lite3.in1k') == {'size': 3, 'torch': False}
  imagenet = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
  assert config('efficientnet_lite0') == {'size': 0, 'torch': True, **imagenet}
  with pytest.raises(KdjaxError, match="unknown architecture for the model efficientnet_lite: 'resnet50'"):
    config('resnet50')
  with pytest.raises(KdjaxError, match='size is 5; it has to be a whole number from 0 to 4'):
    shapes(LITE | {'size': 5}, IMAGE)


BATCH = {'image': jnp.zeros((1, 16, 16, 3), jnp.uint8), 'text': jnp.ones((1, 6), jnp.int32)}


def layers(prefix, n, attention, out, norms, mlp):
  """The tensors of `n` Transformer layers, 8 wide, under the names of a library."""
  modules = dict.fromkeys([*attention, out], (8, 8)) | dict.fromkeys(norms, (8,))
  modules |= {mlp[0]: (12, 8), mlp[1]: (8, 12)}
  collected = {}
  for i in range(n):
    for name, shape in modules.items():
      collected |= {f'{prefix}.{i}.{name}.weight': shape, f'{prefix}.{i}.{name}.bias': shape[:1]}
  return collected


HF_VIT = layers(
  'vit.encoder.layer',
  2,
  [f'attention.attention.{k}' for k in ('query', 'key', 'value')],
  'attention.output.dense',
  ['layernorm_before', 'layernorm_after'],
  ['intermediate.dense', 'output.dense'],
) | {
  'vit.embeddings.cls_token': (1, 1, 8),
  'vit.embeddings.position_embeddings': (1, 5, 8),
  'vit.embeddings.patch_embeddings.projection.weight': (8, 3, 8, 8),
  'vit.embeddings.patch_embeddings.projection.bias': (8,),
  'vit.layernorm.weight': (8,),
  'vit.layernorm.bias': (8,),
  'vit.pooler.dense.weight': (8, 8),
  'classifier.weight': (5, 8),
  'classifier.bias': (5,),
}
VIT = {
  'hidden_size': 8,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 12,
  'patch_size': 8,
}
TO_TIMM = (
  ('vit.encoder.layer', 'blocks'),
  ('attention.attention.query', 'attn.qkv'),
  ('attention.output.dense', 'attn.proj'),
  ('layernorm_before', 'norm1'),
  ('layernorm_after', 'norm2'),
  ('intermediate.dense', 'mlp.fc1'),
  ('output.dense', 'mlp.fc2'),
  ('vit.embeddings.cls_token', 'cls_token'),
  ('vit.embeddings.position_embeddings', 'pos_embed'),
  ('vit.embeddings.patch_embeddings.projection', 'patch_embed.proj'),
  ('vit.layernorm', 'norm'),
  ('classifier', 'head'),
)


def test_both_names_of_a_vit(tmp_path):
  tensors, timm = drawn(HF_VIT), {}
  for name, x in tensors.items():
    if '.attention.key.' in name or '.attention.value.' in name or 'pooler' in name:
      continue
    if '.attention.query.' in name:
      x = np.concatenate([tensors[name.replace('query', k)] for k in ('query', 'key', 'value')])
    for old, new in TO_TIMM:
      name = name.replace(old, new)
    timm[name] = x
  save_file(tensors, tmp_path / 'model.safetensors')
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'vit', **VIT, 'hidden_act': 'gelu_new'}))
  scaling = {'image_mean': [0.4, 0.5, 0.6], 'image_std': [0.2, 0.3, 0.2]}
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps(scaling))
  model = pretrained.complete(str(tmp_path), {'model': 'vit_class_token', 'num_classes': 5})
  assert model['mean'] == (0.4, 0.5, 0.6) and model['act'] == 'gelu_new' and model['patch'] == 8
  like = shapes(model, BATCH)
  loaded = pretrained.load(str(tmp_path), model, like)
  again = safetensors_io.fit(vit_class_token.convert(timm, model), like, 'timm')
  assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), loaded, again)))
  value = tensors['vit.encoder.layer.1.attention.attention.value.weight']
  assert (loaded['params']['block2']['attention']['value']['kernel'] == value.T).all()
  with pytest.raises(
    KdjaxError, match='has mean .0.4, 0.5, 0.6., and the model .0.5, 0.5, 0.5.: set its mean'
  ):
    pretrained.load(str(tmp_path), {k: v for k, v in model.items() if k != 'mean'}, like)
  with pytest.raises(KdjaxError, match='an image of 15×16 does not divide into patches of 8×8'):
    shapes(model, {'image': jnp.zeros((1, 15, 16, 3))})
  with pytest.raises(KdjaxError, match="unknown architecture for the model vit_class_token: 'swin'"):
    vit_class_token.config({'architecture': 'swin'}, tmp_path)
  with pytest.raises(KdjaxError, match="unknown model_type for the model vit_class_token: 'swin'"):
    vit_class_token.config({'model_type': 'swin'}, tmp_path)


def test_clip(tmp_path):
  attention = [f'self_attn.{k}_proj' for k in 'qkv']
  parts = (attention, 'self_attn.out_proj', ['layer_norm1', 'layer_norm2'], ['mlp.fc1', 'mlp.fc2'])
  norms = ('vision_model.pre_layrnorm', 'vision_model.post_layernorm', 'text_model.final_layer_norm')
  wanted = layers('vision_model.encoder.layers', 3, *parts) | layers('text_model.encoder.layers', 2, *parts)
  wanted |= {f'{name}.{leaf}': (8,) for name in norms for leaf in ('weight', 'bias')}
  wanted |= {
    'vision_model.embeddings.class_embedding': (8,),
    'vision_model.embeddings.patch_embedding.weight': (8, 3, 8, 8),
    'vision_model.embeddings.position_embedding.weight': (5, 8),
    'vision_model.embeddings.position_ids': (1, 5),
    'text_model.embeddings.token_embedding.weight': (20, 8),
    'text_model.embeddings.position_embedding.weight': (7, 8),
    'visual_projection.weight': (6, 8),
    'text_projection.weight': (6, 8),
    'logit_scale': (),
  }
  tensors = drawn(wanted | {'logit_scale': (1,)}) | {'logit_scale': np.array(4.6, np.float32)}
  save_file(tensors, tmp_path / 'model.safetensors')
  config = {'model_type': 'clip', 'projection_dim': 6, 'vision_config': VIT | {'num_hidden_layers': 3}}
  config['text_config'] = VIT | {'vocab_size': 20, 'max_position_embeddings': 7}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  model = pretrained.complete(str(tmp_path), {'model': 'clip', 'image': {'dropout': 0.1}})
  assert model['image']['clip'] and model['image']['dropout'] == 0.1 and model['image']['act'] == 'quick_gelu'
  like = shapes(model, BATCH)
  loaded = pretrained.load(str(tmp_path), model, like)['params']
  assert (
    loaded['text']['words']['embedding'] == tensors['text_model.embeddings.token_embedding.weight']
  ).all()
  assert (loaded['image']['class'][0, 0] == tensors['vision_model.embeddings.class_embedding']).all()
  assert loaded['logit_scale'] == np.float32(4.6)
  with pytest.raises(KdjaxError, match="has image.act 'quick_gelu', and the model 'gelu': set its image.act"):
    pretrained.load(str(tmp_path), model | {'image': model['image'] | {'act': 'gelu'}}, like)
  with pytest.raises(KdjaxError, match='a text of 8 tokens is longer than the 7 positions'):
    shapes(model, BATCH | {'text': jnp.ones((1, 8), jnp.int32)})


def test_the_end_of_a_text_of_clip():
  model = {'model': 'clip_text', 'vocab_size': 20, 'width': 8, 'depth': 1, 'heads': 2, 'mlp': 12}
  net = build.module(model, {})
  ids = jnp.array([[18, 3, 4, 19, 0, 0], [18, 5, 19, 19, 19, 19]])
  mask = jnp.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])
  variables, apply = jax.jit(net.init)(jax.random.key(0), {'text': ids}), jax.jit(net.apply)
  taps = apply(variables, {'text': ids, 'text/mask': mask})
  np.testing.assert_array_equal(taps['embed'], taps['tokens'][jnp.arange(2), jnp.array([3, 2])])
  changed = apply(variables, {'text': ids.at[:, 4:].set(7), 'text/mask': mask})
  np.testing.assert_allclose(changed['embed'], taps['embed'], atol=1e-6)


def test_resnet_imagenet(tmp_path):
  model = {'model': 'resnet_imagenet', 'depth': 50, 'num_classes': 5}
  like = shapes(model, IMAGE)
  wanted = {'conv1.weight': (64, 3, 7, 7), 'fc.weight': (5, 2048), 'fc.bias': (5,)}
  norms, width = {'bn1': 64}, 64
  for i, n in enumerate((3, 4, 6, 3), 1):
    inner = 32 * 2**i
    for j in range(n):
      at = f'layer{i}.{j}'
      parts = [(inner, width, 1), (inner, inner, 3), (4 * inner, inner, 1)]
      for k, (outer, of, side) in enumerate(parts, 1):
        wanted[f'{at}.conv{k}.weight'], norms[f'{at}.bn{k}'] = (outer, of, side, side), outer
      if not j:
        wanted[f'{at}.downsample.0.weight'], norms[f'{at}.downsample.1'] = (4 * inner, width, 1, 1), 4 * inner
      width = 4 * inner
  for name, n in norms.items():
    wanted |= {f'{name}.{leaf}': (n,) for leaf in ('weight', 'bias', 'running_mean', 'running_var')}
  tensors = drawn(wanted)
  loaded = safetensors_io.fit(resnet_imagenet.convert(tensors, model), like, 'resnet')
  assert sum(x.size for x in jax.tree.leaves(loaded['params'])) == 25_557_032 - 995 * 2049
  assert resnet_imagenet.config({'architecture': 'resnet34.a1_in1k'}, tmp_path)['depth'] == 34
  with pytest.raises(KdjaxError, match="unknown architecture for the model resnet_imagenet: 'resnet50d'"):
    resnet_imagenet.config({'architecture': 'resnet50d'}, tmp_path)
  with pytest.raises(KdjaxError, match='depth is 20; it has to be 18 or 34'):
    shapes(model | {'depth': 20}, IMAGE)
