"""ViT and DeiT checkpoints in the names of transformers and timm, to models.vision.vit_class_token."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.errors import KdjaxError
from kdjax.pretrained import hf_config, images
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
ARCHITECTURE = re.compile(rf'(vit|deit)_({"|".join(TIMM)})(_distilled)?_patch(\d+)_\d+(?:\..*)?')
TIMM_ARGS = ('embed_dim', 'depth', 'num_heads', 'patch_size')
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
  'classifier|head|cls_classifier': 'head/linear',
  'distillation_classifier|head_dist': 'head/distillation',
}
WHOLE = {
  r'embeddings\.cls_token|cls_token': 'params/class',
  r'embeddings\.distillation_token|dist_token': 'params/distillation',
  r'embeddings\.position_embeddings|pos_embed': 'params/position',
}


def split(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """timm's fused `qkv` as query, key and value."""
  unfused = {}
  for name, x in tensors.items():
    if '.qkv.' in name:
      parts = zip(('query', 'key', 'value'), np.split(x, 3), strict=True)
      unfused |= {name.replace('.qkv.', f'.{part}.'): y for part, y in parts}
    else:
      unfused[name] = x
  return unfused


def unfused(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """torch's fused `in_proj_` of attentions under names that `split` reads, if its length divides by 3."""
  whole = {k for k, x in tensors.items() if len(x.shape) and not len(x) % 3}
  return {k.replace('.in_proj_', '.qkv.') if k in whole else k: x for k, x in tensors.items()}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.vit_class_token`, with the classifier where the model has one."""
  bare = {re.sub(r'^(vit|deit)\.', '', name): x for name, x in tensors.items()}
  head = '' if attributes['num_classes'] else r'|((cls_|distillation_)?classifier|head|head_dist)\..*'
  return rename(split(bare), MODULES, WHOLE, r'pooler\..*' + head)


def check_head(
  config_json: Mapping[str, Any], tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
  """Checks that the model has a classifier of the distillation token if the checkpoint has one.

  Raises:
    KdjaxError: if it has not.
  """
  second = {'distillation_classifier.weight', 'head_dist.weight'} & tensors.keys()
  if second and attributes['distilled'] != 'heads':
    raise KdjaxError(
      f'the checkpoint has a classifier of its distillation token, {second.pop()!r}: set distilled of the '
      "model to 'heads'."
    )


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json of transformers or timm, and the scaling of images.

  Raises:
    KdjaxError: for another kind of model.
  """
  if 'architecture' in config_json:
    choices = [f'vit_{size}_patch16_224' for size in TIMM]
    match = timm(config_json, ARCHITECTURE, 'vit_class_token', choices, 'token', TIMM_ARGS)
    width, depth, heads = TIMM[match[2]]
    sizes = dict(zip(TIMM_ARGS, (width, depth, heads, int(match[4])), strict=True))
    sizes |= {k: v for k, v in dict(config_json.get('model_args') or {}).items() if k in sizes}
    for key, value in sizes.items():
      options.check(value, options.Size, f'{folder / "config.json"}: {key}')
    width, depth, heads, patch = sizes.values()
    attributes = {'width': width, 'depth': depth, 'heads': heads, 'mlp': 4 * width, 'patch': patch}
    attributes |= {'act': 'gelu', 'eps': 1e-6}
    attributes |= {'distilled': 'heads'} if match[3] else {}
    attributes |= images.IMAGENET if match[1] == 'deit' else {}
    return attributes | images.scaling(config_json, folder)
  kind = hf_config.kind(config_json, 'vit_class_token', ('vit', 'deit'), 'vit')
  attributes = {ours: config_json[theirs] for ours, theirs in NAMES.items() if theirs in config_json}
  if kind == 'deit':
    two_heads = 'DeiTForImageClassificationWithTeacher' in (config_json.get('architectures') or ())
    attributes |= {'distilled': 'heads' if two_heads else 'token'}
  return attributes | images.scaling(config_json, folder)
