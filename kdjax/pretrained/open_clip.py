"""Checkpoints in the names of open_clip, with its open_clip_config.json, for the models clip and siglip."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained import hf_config, images
from kdjax.pretrained.find import CONFIGS
from kdjax.pretrained.rename import rename
from kdjax.pretrained.vit_class_token import split, unfused

FILE = CONFIGS[1]
OPENAI = {'mean': (0.48145466, 0.4578275, 0.40821073), 'std': (0.26862954, 0.26130258, 0.27577711)}
TIMM = {  # of vit_<size>_patch<n>_siglip_<side>: width, blocks, heads, ratio of the MLP
  'base': (768, 12, 12, 4.0),
  'large': (1024, 24, 16, 4.0),
  'so400m': (1152, 27, 16, 3.7362),
  'giantopt': (1536, 40, 16, 4.0),
}
TANH = ('base_patch32_256', 'large_patch16_512', 'so400m_patch16', 'giantopt')  # gelu in its approximation
ARCHITECTURE = re.compile(r'vit_(([a-z0-9]+)_patch(\d+))_siglip_(\d+)(?:\..*)?')
# Keys that change nothing outside of a training, and those of the tokenizer.
UNREAD = ('image_size', 'patch_dropout', 'output_tokens', 'timm_model_pretrained', 'timm_drop')
UNREAD += ('timm_drop_path', 'hf_tokenizer_name', 'tokenizer_mode', 'tokenizer_kwargs', 'pad_id', 'eos_id')
UNREAD += (
  'attn_pooler_queries',
  'attn_pooler_heads',
  'hf_model_pretrained',
  'hf_proj_type',
  'hf_pooler_type',
)
MODEL = ('embed_dim', 'vision_cfg', 'text_cfg', 'custom_text', 'init_logit_scale', 'nonscalar_logit_scale')
PLAIN_IMAGE = {'pool_type': 'tok', 'attentional_pool': False, 'no_ln_pre': False}
PLAIN_IMAGE |= {'final_ln_after_pool': False, 'timm_model_name': '', 'block_type': 'default'}
PLAIN_TEXT = {'pool_type': 'argmax', 'no_causal_mask': False, 'proj_bias': False, 'proj_type': 'linear'}
PLAIN_TEXT |= {'embed_cls': False, 'final_ln_after_pool': False, 'hf_model_name': '', 'block_type': 'default'}
SIGLIP_TEXT = PLAIN_TEXT | {'pool_type': 'last', 'no_causal_mask': True, 'proj_bias': True}
SIGLIP_IMAGE = {'timm_pool': 'map', 'timm_proj': 'none', 'timm_proj_bias': False}
SIZES = ('layers', 'width', 'heads', 'head_width', 'mlp_ratio', 'patch_size', 'context_length', 'vocab_size')
SHAPED = (*SIZES, 'norm_kwargs', 'act_kwargs', 'pos_embed_type')
TRUNK = r'visual\.trunk\.'
MODULES = {
  r'visual\.conv1': 'image/patch',
  r'visual\.ln_pre': 'image/norm_in',
  r'visual\.ln_post': 'image/norm',
  r'(?:text\.)?ln_final': 'text/norm',
  r'text\.text_projection': 'text/project',
  TRUNK + r'patch_embed\.proj': 'image/patch',
  TRUNK + 'norm': 'image/norm',
  TRUNK + r'blocks\.(\d+)\.attn\.(query|key|value)': r'image/block<\1>/attention/\2',
  TRUNK + r'blocks\.(\d+)\.attn\.proj': r'image/block<\1>/attention/out',
  TRUNK + r'blocks\.(\d+)\.norm(\d)': r'image/block<\1>/norm\2',
  TRUNK + r'blocks\.(\d+)\.mlp\.fc1': r'image/block<\1>/mlp_in',
  TRUNK + r'blocks\.(\d+)\.mlp\.fc2': r'image/block<\1>/mlp_out',
  TRUNK + r'attn_pool\.(key|value|norm)': r'image/pool/\1',
  TRUNK + r'attn_pool\.q': 'image/pool/query',
  TRUNK + r'attn_pool\.proj': 'image/pool/out',
  TRUNK + r'attn_pool\.mlp\.fc1': 'image/pool/mlp_in',
  TRUNK + r'attn_pool\.mlp\.fc2': 'image/pool/mlp_out',
}
for prefix, name in ((r'visual\.', 'image'), (r'(?:text\.)?', 'text')):
  layer = prefix + r'transformer\.resblocks\.(\d+)\.'
  MODULES |= {
    layer + r'attn\.(query|key|value)': rf'{name}/block<\1>/attention/\2',
    layer + r'attn\.out_proj': rf'{name}/block<\1>/attention/out',
    layer + r'ln_(\d)': rf'{name}/block<\1>/norm\2',
    layer + r'mlp\.c_fc': rf'{name}/block<\1>/mlp_in',
    layer + r'mlp\.c_proj': rf'{name}/block<\1>/mlp_out',
  }
WHOLE = {
  r'visual\.class_embedding': 'params/image/class',
  r'visual\.positional_embedding|' + TRUNK + 'pos_embed': 'params/image/position',
  TRUNK + r'attn_pool\.latent': 'params/image/pool/probe',
  r'(?:text\.)?token_embedding\.weight': 'params/text/words/embedding',
  r'(?:text\.)?positional_embedding': 'params/text/positions/embedding',
  r'visual\.proj': 'params/project_image/kernel',
  r'(?:text\.)?text_projection': 'params/project_text/kernel',
  '(logit_scale|logit_bias)': r'params/\1',
}
IGNORED = r'(?:text\.)?attn_mask|input_resolution|context_length|vocab_size'  # of early checkpoints


def named(tensors: Mapping[str, Any]) -> bool:
  """Whether tensors have open_clip's names."""
  return any(name.startswith('visual.') for name in tensors)


def convert(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Flat variables of `models.multimodal.clip` or `siglip`."""
  parts = {}
  for key, x in tensors.items():
    if re.fullmatch(TRUNK + r'attn_pool\.kv\.(weight|bias)', key):
      parts |= {
        key.replace('.kv.', f'.{k}.'): y for k, y in zip(('key', 'value'), np.split(x, 2), strict=True)
      }
    else:
      parts[key] = x
  variables = rename(split(unfused(parts)), MODULES, WHOLE, IGNORED)
  shapes = {'params/image/class': (1, 1, -1), 'params/image/position': (1, *_table(variables))}
  shapes |= {'params/logit_scale': (), 'params/logit_bias': ()}
  return {k: x.reshape(shapes[k]) if k in shapes else x for k, x in variables.items()}


def _table(variables):
  return getattr(variables.get('params/image/position'), 'shape', ())[-2:]


def clip(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The attributes of `models.multimodal.clip` in an open_clip_config.json.

  Raises:
    OtherKind: for a SigLIP.
    KdjaxError: for towers that are no plain ViT and no plain text Transformer.
  """
  path, (model, image, text) = folder / FILE, _parts(config_json, folder)
  if _siglip(image):
    raise hf_config.OtherKind(
      f'{path} has timm_model_name {image["timm_model_name"]!r}: choose the model siglip.'
    )
  if isinstance(image.get('layers'), list):
    raise KdjaxError(f'{path} has a ResNet for its image tower; the model clip has a ViT.')
  ends = {}
  if text.get('pool_type') == 'eos':
    ends, text = {'end': text.get('eos_id', 2)}, text | {'pool_type': 'argmax'}
  _refuse(model, {}, path, 'clip', (*MODEL, 'quick_gelu'))
  _refuse(image, PLAIN_IMAGE, path, 'clip', SHAPED)
  _refuse(text, PLAIN_TEXT, path, 'clip', SHAPED)
  quick = bool(model.get('quick_gelu'))
  sizes = {'layers': 12, 'width': 768, 'head_width': 64, 'patch_size': 16} | image
  heads = max(_size(sizes, 'width', path) // _size(sizes, 'head_width', path), 1)
  image_tower = {'model': 'vit_class_token', 'clip': True, 'patch': _size(sizes, 'patch_size', path)}
  image_tower |= _tower(sizes | {'heads': heads}, quick, path) | OPENAI | images.scaling(config_json, folder)
  text_tower = {'model': 'clip_text'} | _words(text, quick, path) | ends
  return {'width': _size(model, 'embed_dim', path), 'image': image_tower, 'text': text_tower}


def siglip(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The attributes of `models.multimodal.siglip` in an open_clip_config.json.

  Raises:
    OtherKind: for a CLIP.
    KdjaxError: for other towers than SigLIP's.
  """
  path, (model, image, text) = folder / FILE, _parts(config_json, folder)
  if not _siglip(image):
    raise hf_config.OtherKind(f'{path} has no timm_model_name of a SigLIP: choose the model clip.')
  architecture = image['timm_model_name']
  match = ARCHITECTURE.fullmatch(architecture)
  if match is None or match[2] not in TIMM:
    choices = [f'vit_{size}_patch16_siglip_256' for size in TIMM]
    raise unknown('timm_model_name for the model siglip', architecture, choices)
  _refuse(model, {'quick_gelu': False}, path, 'siglip', (*MODEL, 'init_logit_bias'))
  _refuse(image, SIGLIP_IMAGE, path, 'siglip', ('timm_model_name',))
  unsaid = {'pool_type': 'argmax', 'no_causal_mask': False, 'proj_bias': False}
  _refuse(unsaid | text, SIGLIP_TEXT, path, 'siglip', SHAPED)
  width, depth, heads, ratio = TIMM[match[2]]
  act = 'gelu_pytorch_tanh' if f'{match[1]}_{match[4]}'.startswith(TANH) else 'gelu'
  image_tower = {'model': 'siglip_image', 'width': width, 'depth': depth, 'heads': heads, 'act': act}
  image_tower |= {'mlp': int(width * ratio), 'patch': int(match[3]), 'eps': 1e-6}
  text_tower = {'model': 'siglip_text'} | _words(text, False, path)
  if (project := _size(model, 'embed_dim', path)) != text_tower['width']:
    text_tower['project'] = project
  return {'image': image_tower | OPENAI | images.scaling(config_json, folder), 'text': text_tower}


def _siglip(image):
  return 'siglip' in str(image.get('timm_model_name'))


def _parts(config_json: Mapping[str, Any], folder: Path) -> list[Any]:
  """The whole model_cfg, and those of its towers."""
  model = config_json.get('model_cfg')
  parts = (
    [model, *(model.get(k) for k in ('vision_cfg', 'text_cfg'))] if isinstance(model, Mapping) else [model]
  )
  if not all(isinstance(part, Mapping) for part in parts):
    raise KdjaxError(f'{folder / FILE} has no model_cfg with a vision_cfg and a text_cfg: fetch it anew.')
  return parts


def _refuse(part, plain, path, model, read):
  """Raises KdjaxError for a key that changes the model to what it cannot be here."""
  hf_config.plain(part, plain, model, str(path))
  for key, value in part.items():
    if value not in (None, False) and key not in (*plain, *read, *UNREAD):
      raise KdjaxError(f'{path} has {key} {options.shown(value)}: the model {model} does not support it.')


def _size(part, key, path, kind=options.Size):
  return options.check(part.get(key), kind, f'{path}: {key}')


def _tower(sizes, quick, path):
  """The attributes that both towers have."""
  width, ratio = _size(sizes, 'width', path), sizes.get('mlp_ratio', 4.0)
  norm, act = (options.check(sizes.get(k) or {}, dict, f'{path}: {k}') for k in ('norm_kwargs', 'act_kwargs'))
  gelu = 'gelu_pytorch_tanh' if act.get('approximate') == 'tanh' else 'gelu'
  return {
    'width': width,
    'depth': _size(sizes, 'layers', path, options.Depth),
    'heads': _size(sizes, 'heads', path),
    'mlp': int(width * options.check(ratio, options.Multiplier, f'{path}: mlp_ratio')),
    'act': 'quick_gelu' if quick else gelu,
    'eps': options.check(norm.get('eps', 1e-5), options.Eps, f'{path}: eps'),
  }


def _words(text, quick, path):
  """The attributes of a text tower."""
  defaults = {'width': 512, 'heads': 8, 'layers': 12, 'context_length': 77, 'vocab_size': 49408}
  sizes = defaults | text
  rows = _size(sizes, 'vocab_size', path, options.Vocabulary)
  return _tower(sizes, quick, path) | {'vocab_size': rows, 'positions': _size(sizes, 'context_length', path)}
