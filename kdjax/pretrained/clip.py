"""CLIP checkpoints in the names of transformers and open_clip, to models.multimodal.clip."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.pretrained import hf_config, images, open_clip
from kdjax.pretrained.rename import rename
from kdjax.pretrained.vit_class_token import NAMES

TEXT = {k: v for k, v in NAMES.items() if k != 'patch'} | {
  'vocab_size': 'vocab_size',
  'positions': 'max_position_embeddings',
}
IMAGE = {  # the defaults of transformers, and OpenAI's scaling of images
  'model': 'vit_class_token',
  'clip': True,
  'patch': 32,
  'act': 'quick_gelu',
  'eps': 1e-5,
} | open_clip.OPENAI
LAYER = r'(vision|text)_model\.encoder\.layers\.(\d+)\.'
MODULES = {
  r'vision_model\.embeddings\.patch_embedding': 'image/patch',
  r'vision_model\.pre_layrnorm': 'image/norm_in',
  r'vision_model\.post_layernorm': 'image/norm',
  r'text_model\.final_layer_norm': 'text/norm',
  LAYER + r'self_attn\.out_proj': r'\1/block<\2>/attention/out',
  LAYER + r'layer_norm(\d)': r'\1/block<\2>/norm\3',
  LAYER + r'mlp\.fc1': r'\1/block<\2>/mlp_in',
  LAYER + r'mlp\.fc2': r'\1/block<\2>/mlp_out',
  'visual_projection': 'project_image',
  'text_projection': 'project_text',
} | {LAYER + rf'self_attn\.{k[0]}_proj': rf'\1/block<\2>/attention/{k}' for k in ('query', 'key', 'value')}
WHOLE = {
  r'vision_model\.embeddings\.class_embedding': 'params/image/class',
  r'vision_model\.embeddings\.position_embedding\.weight': 'params/image/position',
  r'text_model\.embeddings\.token_embedding\.weight': 'params/text/words/embedding',
  r'text_model\.embeddings\.position_embedding\.weight': 'params/text/positions/embedding',
  'logit_scale': 'params/logit_scale',
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.multimodal.clip`."""
  if open_clip.named(tensors):
    return open_clip.convert(tensors)
  variables = rename(tensors, MODULES, WHOLE, r'(text|vision)_model\.embeddings\.position_ids')
  variables = {name.replace('params/vision/', 'params/image/'): x for name, x in variables.items()}
  shapes = {'params/image/class': (1, 1, -1), 'params/image/position': (1, -1, attributes['image']['width'])}
  return {name: x.reshape(shapes[name]) if name in shapes else x for name, x in variables.items()}


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The attributes of the module and of its two towers in a config.json.

  Raises:
    KdjaxError: for another kind of model.
  """
  if hf_config.kind(config_json, 'clip', ('clip', hf_config.OPEN_CLIP), 'clip') == hf_config.OPEN_CLIP:
    return open_clip.clip(config_json, folder)
  image, text = config_json.get('vision_config', {}), config_json.get('text_config', {})
  end = text.get('eos_token_id')  # older files have 2, which was not used
  ends = {} if end in (None, 2, text.get('vocab_size', 0) - 1) else {'end': end}
  return {
    'width': config_json.get('projection_dim', 512),
    'image': IMAGE | {k: image[v] for k, v in NAMES.items() if v in image} | images.scaling({}, folder),
    'text': {'model': 'clip_text'} | {k: text[v] for k, v in TEXT.items() if v in text} | ends,
  }
