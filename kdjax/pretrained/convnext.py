"""ConvNeXt checkpoints of both versions in the names of transformers and timm, to models.vision.convnext."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.pretrained import hf_config, images
from kdjax.pretrained.rename import rename, timm

NAMES = {
  'depths': 'depths',
  'widths': 'hidden_sizes',
  'patch': 'patch_size',
  'act': 'hidden_act',
  'eps': 'layer_norm_eps',
}
DEFAULTS = {'layer_norm_eps': 1e-12}  # of transformers, where a config.json leaves it out
TIMM = {  # blocks, and channels of the first stage
  'atto': ((2, 2, 6, 2), 40),
  'femto': ((2, 2, 6, 2), 48),
  'pico': ((2, 2, 6, 2), 64),
  'nano': ((2, 2, 8, 2), 80),
  'tiny': ((3, 3, 9, 3), 96),
  'small': ((3, 3, 27, 3), 96),
  'base': ((3, 3, 27, 3), 128),
  'large': ((3, 3, 27, 3), 192),
  'xlarge': ((3, 3, 27, 3), 256),
  'huge': ((3, 3, 27, 3), 352),
}
ARCHITECTURE = re.compile(rf'convnext(v2)?_({"|".join(TIMM)})(?:\..*)?')
TIMM_ARGS = ('depths', 'dims', 'patch_size')
LAYER = r'encoder\.stages\.(\d+)\.layers\.(\d+)\.'
BLOCK = r'stages\.(\d+)\.blocks\.(\d+)\.'
MODULES = {
  r'embeddings\.patch_embeddings|stem\.0': 'stem',
  r'embeddings\.layernorm|stem\.1': 'stem_norm',
  r'(?:encoder\.)?stages\.(\d+)\.downsampl(?:ing_layer|e)\.0': r'stage<\1>_norm',
  r'(?:encoder\.)?stages\.(\d+)\.downsampl(?:ing_layer|e)\.1': r'stage<\1>_down',
  LAYER + 'dwconv': r'stage<\1>_block<\2>/depthwise',
  LAYER + 'layernorm': r'stage<\1>_block<\2>/norm',
  LAYER + 'pwconv1': r'stage<\1>_block<\2>/mlp_in',
  LAYER + 'pwconv2': r'stage<\1>_block<\2>/mlp_out',
  LAYER + 'grn': r'stage<\1>_block<\2>/response_norm',
  BLOCK + 'conv_dw': r'stage<\1>_block<\2>/depthwise',
  BLOCK + 'norm': r'stage<\1>_block<\2>/norm',
  BLOCK + r'mlp\.fc1': r'stage<\1>_block<\2>/mlp_in',
  BLOCK + r'mlp\.fc2': r'stage<\1>_block<\2>/mlp_out',
  BLOCK + r'mlp\.grn': r'stage<\1>_block<\2>/response_norm',
  r'layernorm|head\.norm': 'norm',
  r'classifier|head\.fc': 'head/linear',
}
WHOLE = {
  LAYER + 'layer_scale_parameter': r'params/stage<\1>_block<\2>/scale',
  BLOCK + 'gamma': r'params/stage<\1>_block<\2>/scale',
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.convnext`, with the classifier where the model has one."""
  bare = {re.sub(r'^convnext(v2)?\.', '', name): x for name, x in tensors.items()}
  for name, x in bare.items():
    if x.ndim == 4 and '.mlp.fc' in name and x.shape[2:] == (1, 1):  # a 1×1 convolution for a dense layer
      bare[name] = x[..., 0, 0]
    elif x.ndim == 4 and '.grn.' in name and x.shape[:3] == (1, 1, 1):
      bare[name] = x[0, 0, 0]
  return rename(bare, MODULES, WHOLE, '' if attributes['num_classes'] else r'(classifier|head\.fc)\..*')


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json of transformers or timm, and the scaling of images.

  Raises:
    KdjaxError: for another kind of model.
  """
  if 'architecture' in config_json:
    choices = [f'convnext{v}_{size}' for v in ('', 'v2') for size in TIMM]
    match = timm(config_json, ARCHITECTURE, 'convnext', choices, known=TIMM_ARGS)
    depths, first = TIMM[match[2]]
    sizes = {'depths': depths, 'dims': tuple(first * 2**i for i in range(4)), 'patch_size': 4}
    sizes |= {k: v for k, v in dict(config_json.get('model_args') or {}).items() if k in sizes}
    for key, kind in zip(TIMM_ARGS, (options.Blocks, options.Sizes, options.Size), strict=True):
      options.check(sizes[key], kind, f'{folder / "config.json"}: {key}')
    attributes = {'depths': tuple(sizes['depths']), 'widths': tuple(sizes['dims']), 'second': bool(match[1])}
    attributes |= {'patch': sizes['patch_size'], 'act': 'gelu', 'eps': 1e-6}
    return attributes | images.scaling(config_json, folder)
  kind = hf_config.kind(config_json, 'convnext', ('convnext', 'convnextv2'))
  hf_config.plain(config_json, {'num_channels': 3}, 'convnext')
  attributes = hf_config.attributes(DEFAULTS | dict(config_json), NAMES)
  for key in ('depths', 'widths'):
    if isinstance(attributes.get(key), list):
      attributes[key] = tuple(attributes[key])
  return attributes | {'second': kind == 'convnextv2'} | images.scaling(config_json, folder)
