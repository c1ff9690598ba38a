"""CLIP and SigLIP against open_clip, by way of the files that it writes."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.pretrained import open_clip as converter

torch = pytest.importorskip('torch')
open_clip = pytest.importorskip('open_clip')
timm = pytest.importorskip('timm')
pytestmark = pytest.mark.parity
IMAGE = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3)).astype(np.uint8)
IDS = np.random.default_rng(1).integers(0, 50, (3, 12)).astype(np.int32)
VISION = {'image_size': 24, 'layers': 3, 'width': 32, 'head_width': 8, 'patch_size': 8}
WORDS = {'context_length': 12, 'vocab_size': 50, 'width': 24, 'heads': 4, 'layers': 2}
MEAN, STD = (0.4, 0.5, 0.6), (0.3, 0.25, 0.2)
CASES = {  # what differs in the whole, the image tower and the text tower
  'gelu': ({}, {}, {}),
  'quick_gelu': ({'quick_gelu': True}, {'mlp_ratio': 2.5}, {'mlp_ratio': 3.0}),
  'tanh': (
    {'nonscalar_logit_scale': True},
    {'act_kwargs': {'approximate': 'tanh'}, 'norm_kwargs': {'eps': 1e-6}, 'pos_embed_type': 'sin_cos_2d'},
    {'pool_type': 'eos', 'eos_id': 7},
  ),
}


def saved(folder, module, model_cfg, batch):
  """(model, taps) of a folder as open_clip's push_to_hf_hub fills it."""
  preprocess = {'mean': MEAN, 'std': STD, 'interpolation': 'bicubic', 'resize_mode': 'squash'}
  config = {'model_cfg': model_cfg, 'preprocess_cfg': preprocess}
  (folder / 'open_clip_config.json').write_text(json.dumps(config))
  tensors = {k: np.ascontiguousarray(v.numpy()) for k, v in module.state_dict().items()}
  save_file(tensors, folder / 'open_clip_model.safetensors')
  config = pretrained.complete(str(folder), pretrained.architecture(str(folder)))
  net = build.module(config, {})
  like = jax.eval_shape(net.init, jax.random.key(0), batch)
  return config, jax.jit(net.apply)(pretrained.load(str(folder), config, like), batch)


def pixels():
  x = (IMAGE / 255 - np.array(MEAN)) / np.array(STD)
  return torch.tensor(x.transpose(0, 3, 1, 2)).float()


def heads(x, n):
  """[B, L, D] -> [B, heads, L, D / heads]."""
  return x.unflatten(-1, (n, -1)).transpose(1, 2)


def keep(taps, name, transpose=False):
  def hook(_, __, y):
    taps[name] = y.transpose(0, 1) if transpose else y

  return hook


def blocks(layers, name, count, taps):
  """Hooks that keep the blocks' outputs and the attentions' scores of a tower of open_clip."""

  def scores(i, attention):
    def hook(_, __, y):
      both = torch.nn.functional.linear(y, attention.in_proj_weight, attention.in_proj_bias)
      q, k, _ = (heads(part, count) for part in both.chunk(3, -1))
      taps[f'{name}/attention{i}'] = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5

    return hook

  for i, layer in enumerate(layers, 1):
    layer.register_forward_hook(keep(taps, f'{name}/block{i}'))
    layer.ln_1.register_forward_hook(scores(i, layer.attn))


def text_hooks(text, ln_final, taps):
  text.resblocks[0].register_forward_pre_hook(lambda _, x: taps.__setitem__('text/embeddings', x[0]))
  blocks(text.resblocks, 'text', 4, taps)
  ln_final.register_forward_hook(keep(taps, 'text/tokens'))


@pytest.mark.parametrize('custom', [False, True])
@pytest.mark.parametrize('name', CASES)
def test_every_tap_of_clip(tmp_path, agree, randomised, name, custom):
  whole, image, text = CASES[name]
  vision_cfg, text_cfg = VISION | image, WORDS | text
  kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
  module = randomised(kind(embed_dim=20, vision_cfg=vision_cfg, text_cfg=text_cfg, **whole))
  taps, visual = {}, module.visual
  visual.ln_pre.register_forward_hook(keep(taps, 'image/embeddings'))
  blocks(visual.transformer.resblocks, 'image', 4, taps)
  visual.ln_post.register_forward_hook(keep(taps, 'image/tokens'))
  at = module.text if custom else module
  text_hooks(at.transformer, at.ln_final, taps)
  with torch.no_grad():
    taps['image/embed'] = module.encode_image(pixels())
    taps['text/embed'] = module.encode_text(torch.tensor(IDS).long())
  taps['logit_scale'] = module.logit_scale.reshape(())
  model_cfg = {'embed_dim': 20, 'vision_cfg': vision_cfg, 'text_cfg': text_cfg, 'custom_text': custom} | whole
  config, ours = saved(tmp_path, module, model_cfg, {'image': IMAGE, 'text': IDS})
  assert config['model'] == 'clip' and config['image']['mean'] == MEAN
  agree(ours, taps)


def tiny(**options):
  sizes = {'img_size': 24, 'patch_size': 8, 'embed_dim': 32, 'depth': 3, 'num_heads': 4, 'mlp_ratio': 2.5}
  return timm.models.VisionTransformer(
    **sizes, class_token=False, global_pool='map', num_classes=options['num_classes']
  )


@pytest.mark.parametrize('approximate', [None, 'tanh'])
def test_every_tap_of_siglip(tmp_path, agree, randomised, monkeypatch, approximate):
  """SigLIP of timm's image tower, and SigLIP 2 with its other gelu of the texts."""
  monkeypatch.setattr(timm, 'create_model', lambda name, **options: tiny(**options))
  monkeypatch.setitem(converter.TIMM, 'tiny', (32, 3, 4, 2.5))
  vision_cfg = {'image_size': 24, 'timm_model_name': 'vit_tiny_patch8_siglip_24', 'timm_pool': 'map'}
  vision_cfg |= {'timm_proj': 'none', 'timm_model_pretrained': False}
  text_cfg = WORDS | {'no_causal_mask': True, 'proj_bias': True, 'pool_type': 'last'}
  text_cfg |= {'norm_kwargs': {'eps': 1e-6}, 'hf_tokenizer_name': 'timm/x', 'mlp_ratio': 3.7362}
  text_cfg |= {'act_kwargs': {'approximate': approximate}} if approximate else {}
  module = open_clip.CustomTextCLIP(32, vision_cfg, text_cfg, init_logit_bias=-10.0)
  taps, trunk = {}, randomised(module).visual.trunk
  trunk.blocks[0].register_forward_pre_hook(lambda _, x: taps.__setitem__('image/embeddings', x[0]))
  collected = {}
  for i, block in enumerate(trunk.blocks, 1):
    block.register_forward_hook(keep(taps, f'image/block{i}'))
    block.attn.qkv.register_forward_hook(keep(collected, i))
  trunk.norm.register_forward_hook(keep(taps, 'image/tokens'))
  text_hooks(module.text.transformer, module.text.ln_final, taps)
  with torch.no_grad():
    taps['image/embed'] = module.encode_image(pixels())
    taps['text/embed'] = module.encode_text(torch.tensor(IDS).long())
  for i, x in collected.items():
    q, k, _ = (heads(part, 4) for part in x.chunk(3, -1))
    taps[f'image/attention{i}'] = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
  taps |= {'logit_scale': module.logit_scale, 'logit_bias': module.logit_bias}
  model_cfg = {'embed_dim': 32, 'init_logit_bias': -10, 'custom_text': True}
  model_cfg |= {'vision_cfg': vision_cfg, 'text_cfg': text_cfg}
  config, ours = saved(tmp_path, module, model_cfg, {'image': IMAGE, 'text': IDS})
  assert config['model'] == 'siglip' and config['text']['project'] == 32
  agree(ours, taps)


def shapes_of(name):
  """Of the tensors of one of open_clip's own configs, by way of a model with no memory."""
  with torch.device('meta'):
    config = open_clip.get_model_config(name)
    kind = open_clip.CustomTextCLIP if config.pop('custom_text', False) else open_clip.CLIP
    config = {k: v for k, v in config.items() if k != 'multimodal_cfg'}
    return {k: tuple(x.shape) for k, x in kind(**config).state_dict().items()}


REFUSED = ('ViT-M-16-alt', 'ViT-SO400M-16-SigLIP-i18n-256')  # layer scale; no projection of texts
PLAIN = [name for name in open_clip.list_models() if name.startswith('ViT-')]


@pytest.mark.parametrize('name', PLAIN)
def test_its_own_configs(tmp_path, name):
  """The plain ViTs and SigLIPs have the shapes that their configs say, and the others are one line."""
  config_json = {'model_cfg': open_clip.get_model_config(name), 'preprocess_cfg': {}}
  siglip = 'SigLIP' in name
  read = converter.siglip if siglip else converter.clip
  if name in REFUSED or 'CLIPA' in name:
    with pytest.raises(KdjaxError) as error:
      read(config_json, tmp_path)
    assert '\n' not in str(error.value)
    return
  config = {'model': 'siglip' if siglip else 'clip'} | read(config_json, tmp_path)
  patch, side = config['image']['patch'], config_json['model_cfg']['vision_cfg']['image_size']
  side = side // patch * patch
  batch = {'image': np.zeros((1, side, side, 3), np.uint8)}
  batch['text'] = np.ones((1, config['text']['positions']), np.int32)
  like = jax.eval_shape(build.module(config, {}).init, jax.random.key(0), batch)
  expected = {k: x.shape for k, x in flatten_dict(like, sep='/').items()}
  tensors = {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes_of(name).items()}
  assert {k: x.shape for k, x in converter.convert(tensors).items()} == expected
  if siglip:
    with torch.device('meta'):
      trunk = timm.create_model(config_json['model_cfg']['vision_cfg']['timm_model_name'])
    act = trunk.blocks[0].mlp.act
    tanh = getattr(act, 'approximate', 'none') == 'tanh' or 'Tanh' in type(act).__name__
    assert config['image']['act'] == ('gelu_pytorch_tanh' if tanh else 'gelu')
