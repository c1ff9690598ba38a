"""DINOv2 checkpoints in the names of Hugging Face transformers, to models.vision.dinov2."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.errors import KdjaxError
from kdjax.pretrained import hf_config, images
from kdjax.pretrained.rename import rename

KINDS = ('dinov2', 'dinov2_with_registers')
NAMES = {
  'width': 'hidden_size',
  'depth': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'patch': 'patch_size',
  'image_size': 'image_size',
  'gated': 'use_swiglu_ffn',
  'act': 'hidden_act',
  'eps': 'layer_norm_eps',
}
# Of the classes in transformers, where a config.json leaves them out.
DEFAULTS = {'hidden_size': 768, 'num_hidden_layers': 12, 'num_attention_heads': 12, 'mlp_ratio': 4}
DEFAULTS |= {'patch_size': 14, 'image_size': 224}
PLAIN = {'qkv_bias': True, 'num_channels': 3}
LAYER = r'encoder\.layer\.(\d+)\.'
MODULES = {
  r'embeddings\.patch_embeddings\.projection': 'patch',
  LAYER + r'attention\.attention\.(query|key|value)': r'block<\1>/attention/\2',
  LAYER + r'attention\.output\.dense': r'block<\1>/attention/out',
  LAYER + r'(norm\d)': r'block<\1>/\2',
  LAYER + r'mlp\.(fc1|weights_in)': r'block<\1>/mlp_in',
  LAYER + r'mlp\.weights_gate': r'block<\1>/mlp_gate',
  LAYER + r'mlp\.(fc2|weights_out)': r'block<\1>/mlp_out',
  'layernorm': 'norm',
  'classifier': 'head/linear',
}
WHOLE = {
  r'embeddings\.cls_token': 'params/class',
  r'embeddings\.register_tokens': 'params/registers',
  r'embeddings\.position_embeddings': 'params/position',
  LAYER + r'layer_scale(\d)\.lambda1': r'params/block<\1>/scale\2/scale',
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.dinov2`, with the classifier where the model has one."""
  bare = {}
  for name, x in tensors.items():
    name = re.sub(r'^dinov2(_with_registers)?\.', '', name)
    if '.weights_in.' in name and not len(x) % 2:  # the gate, then what it is multiplied with
      gate, x = np.split(x, 2)
      bare[name.replace('.weights_in.', '.weights_gate.')] = gate
    bare[name] = x
  head = '' if attributes['num_classes'] else r'|classifier\..*'
  return rename(bare, MODULES, WHOLE, r'embeddings\.mask_token' + head)


def check_head(
  config_json: Mapping[str, Any], tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
  """Checks that the model pools as the checkpoint's classifier does.

  Raises:
    KdjaxError: if it does not.
  """
  if 'classifier.weight' in tensors and attributes['pool'] != 'first_and_mean':
    raise KdjaxError(
      "the checkpoint's classifier reads the class token and the mean of the patches, and the pool of the "
      f"model is {attributes['pool']!r}: set its pool to 'first_and_mean'."
    )


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json, and the scaling of images.

  Raises:
    KdjaxError: for another kind of model.
  """
  kind = hf_config.kind(config_json, 'dinov2', KINDS)
  hf_config.plain(config_json, PLAIN, 'dinov2')
  config_json = DEFAULTS | {k: x for k, x in config_json.items() if x is not None}
  for key in ('hidden_size', 'mlp_ratio'):
    options.check(config_json[key], options.Size, f'{folder / "config.json"}: {key}')
  mlp = config_json['hidden_size'] * config_json['mlp_ratio']
  if config_json.get('use_swiglu_ffn'):  # two thirds, rounded up to a multiple of eight
    mlp = (mlp * 2 // 3 + 7) // 8 * 8
  attributes = hf_config.attributes(config_json, NAMES) | {'mlp': mlp}
  if kind == 'dinov2_with_registers':
    attributes['registers'] = config_json.get('num_register_tokens', 4)
  if any(name.endswith('ForImageClassification') for name in hf_config.heads(config_json)):
    attributes['pool'] = 'first_and_mean'
  return attributes | images.scaling(config_json, folder)
