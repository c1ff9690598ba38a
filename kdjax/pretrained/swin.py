"""Swin checkpoints in the names of transformers and timm, to models.vision.swin."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.pretrained import hf_config, images
from kdjax.pretrained.rename import rename, timm
from kdjax.pretrained.vit_class_token import split

NAMES = {
  'width': 'embed_dim',
  'depths': 'depths',
  'heads': 'num_heads',
  'window': 'window_size',
  'patch': 'patch_size',
  'mlp': 'mlp_ratio',
  'act': 'hidden_act',
  'eps': 'layer_norm_eps',
}
PLAIN = {'num_channels': 3, 'qkv_bias': True, 'use_absolute_embeddings': False}
TIMM = {  # channels of the first stage, blocks, heads
  'tiny': (96, (2, 2, 6, 2), (3, 6, 12, 24)),
  'small': (96, (2, 2, 18, 2), (3, 6, 12, 24)),
  'base': (128, (2, 2, 18, 2), (4, 8, 16, 32)),
  'large': (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
ARCHITECTURE = re.compile(rf'swin_({"|".join(TIMM)})_patch4_window(\d+)_\d+(?:\..*)?')
TIMM_ARGS = {'embed_dim': options.Size, 'depths': options.Blocks, 'num_heads': options.Sizes}
TIMM_ARGS |= {'window_size': options.Size}
BLOCK = r'(?:encoder\.)?layers\.(\d+)\.blocks\.(\d+)\.'
MODULES = {
  r'embeddings\.patch_embeddings\.projection|patch_embed\.proj': 'stem',
  r'embeddings\.norm|patch_embed\.norm': 'stem_norm',
  BLOCK + r'(?:attention\.self|attn)\.(query|key|value)': r'stage<\1>_block<\2>/\3',
  BLOCK + r'(?:attention\.output\.dense|attn\.proj)': r'stage<\1>_block<\2>/out',
  BLOCK + '(?:layernorm_before|norm1)': r'stage<\1>_block<\2>/norm1',
  BLOCK + '(?:layernorm_after|norm2)': r'stage<\1>_block<\2>/norm2',
  BLOCK + r'(?:intermediate\.dense|mlp\.fc1)': r'stage<\1>_block<\2>/mlp_in',
  BLOCK + r'(?:output\.dense|mlp\.fc2)': r'stage<\1>_block<\2>/mlp_out',
  r'layers\.(\d+)\.downsample\.norm': r'stage<\1>_norm',
  r'layers\.(\d+)\.downsample\.reduction': r'stage<\1>_down',
  'layernorm|norm': 'norm',
  r'classifier|head\.fc|head': 'head/linear',
}
WHOLE = {
  BLOCK + r'(?:attention\.self|attn)\.relative_position_bias_table': r'params/stage<\1>_block<\2>/bias',
}
UNREAD = r'embeddings\.mask_token|.*\.relative_position_index|.*\.attn_mask'


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.swin`, with the classifier where the model has one.

  transformers has the merging of patches with the stage before it, timm with the one after.
  """
  bare = {}
  for name, x in tensors.items():
    name = name.removeprefix('swin.')
    if match := re.fullmatch(r'encoder\.layers\.(\d+)(\.downsample\..*)', name):
      name = f'layers.{int(match[1]) + 1}{match[2]}'
    bare[name] = x
  unread = UNREAD + ('' if attributes['num_classes'] else r'|(classifier|head\.fc|head)\.(weight|bias)')
  return rename(split(bare), MODULES, WHOLE, unread)


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json of transformers or timm, and the scaling of images.

  Raises:
    KdjaxError: for another kind of model.
  """
  path = folder / 'config.json'
  if 'architecture' in config_json:
    choices = [f'swin_{size}_patch4_window7_224' for size in TIMM]
    match = timm(config_json, ARCHITECTURE, 'swin', choices, known=tuple(TIMM_ARGS))
    sizes = dict(zip(TIMM_ARGS, (*TIMM[match[1]], int(match[2])), strict=True))
    sizes |= {k: v for k, v in dict(config_json.get('model_args') or {}).items() if k in sizes}
    for key, kind in TIMM_ARGS.items():
      sizes[key] = options.check(sizes[key], kind, f'{path}: {key}')
    width, depths, heads, window = sizes.values()
    attributes = {'width': width, 'depths': depths, 'heads': heads, 'window': window, 'act': 'gelu'}
    return attributes | images.scaling(config_json, folder)
  hf_config.kind(config_json, 'swin', ('swin',))
  hf_config.plain(config_json, PLAIN, 'swin')
  attributes = hf_config.attributes(config_json, NAMES)
  attributes = {k: tuple(x) if isinstance(x, list) else x for k, x in attributes.items()}
  return attributes | images.scaling(config_json, folder)
