"""ViT and DeiT checkpoints in the names of transformers and timm, to models.vision.vit_class_token."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained.images import scaling
from kdjax.pretrained.rename import rename, timm

NAMES = {
  'width': 'hidden_size',
  'depth': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'mlp': 'intermediate_size',
  'patch': 'patch_size',
  'act': 'hidden_act',
  'eps': 'layer_norm_eps',
}
TIMM = {'tiny': (192, 12, 3), 'small': (384, 12, 6), 'base': (768, 12, 12), 'large': (1024, 24, 16)}
ARCHITECTURE = re.compile(rf'(?:vit|deit)_({"|".join(TIMM)})_patch(\d+)_\d+(?:\..*)?')
LAYER = r'encoder\.layer\.(\d+)\.'
TIMM_LAYER = r'blocks\.(\d+)\.'
MODULES = {
  r'embeddings\.patch_embeddings\.projection|patch_embed\.proj': 'patch',
  LAYER + r'attention\.attention\.(query|key|value)': r'block<\1>/attention/\2',
  LAYER + r'attention\.output\.dense': r'block<\1>/attention/out',
  LAYER + 'layernorm_before': r'block<\1>/norm1',
  LAYER + 'layernorm_after': r'block<\1>/norm2',
  LAYER + r'intermediate\.dense': r'block<\1>/mlp_in',
  LAYER + r'output\.dense': r'block<\1>/mlp_out',
  TIMM_LAYER + r'attn\.(query|key|value)': r'block<\1>/attention/\2',
  TIMM_LAYER + r'attn\.proj': r'block<\1>/attention/out',
  TIMM_LAYER + r'(norm\d)': r'block<\1>/\2',
  TIMM_LAYER + r'mlp\.fc1': r'block<\1>/mlp_in',
  TIMM_LAYER + r'mlp\.fc2': r'block<\1>/mlp_out',
  'layernorm|norm': 'norm',
  'classifier|head': 'head/linear',
}
WHOLE = {
  r'embeddings\.cls_token|cls_token': 'params/class',
  r'embeddings\.position_embeddings|pos_embed': 'params/position',
}


def split(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """timm's `qkv` as the three that it is made of."""
  found = {}
  for name, x in tensors.items():
    if '.qkv.' in name:
      parts = zip(('query', 'key', 'value'), np.split(x, 3), strict=True)
      found |= {name.replace('.qkv.', f'.{part}.'): y for part, y in parts}
    else:
      found[name] = x
  return found


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.vit_class_token`, with the classifier where the model has one."""
  bare = {re.sub(r'^(vit|deit)\.', '', name): x for name, x in tensors.items()}
  head = '' if attributes['num_classes'] else r'|(classifier|head)\..*'
  return rename(split(bare), MODULES, WHOLE, r'pooler\..*' + head)


def config(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes that a config.json of transformers or timm says, and the scaling of images.

  Raises:
    KdjaxError: for another kind of model.
  """
  if 'architecture' in given:
    choices = [f'vit_{size}_patch16_224' for size in TIMM]
    match = timm(given, ARCHITECTURE, 'vit_class_token', choices)
    width, depth, heads = TIMM[match[1]]
    found = {'width': width, 'depth': depth, 'heads': heads, 'mlp': 4 * width, 'eps': 1e-6}
    found |= {'patch': int(match[2]), 'act': 'gelu'}
    return found | scaling(given, folder)
  kind = given.get('model_type', 'vit')
  if kind == 'deit':
    raise KdjaxError(
      'model_type is deit, which has a distillation token beside the class token; vit_class_token has none: '
      "take a DeiT without it, such as timm's deit_base_patch16_224."
    )
  if kind != 'vit':
    raise unknown('model_type for the model vit_class_token', kind, ('vit',))
  return {ours: given[theirs] for ours, theirs in NAMES.items() if theirs in given} | scaling(given, folder)
