"""SigLIP checkpoints in the names of Hugging Face transformers, to models.multimodal.siglip."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.pretrained import hf_config, images
from kdjax.pretrained.clip import TEXT
from kdjax.pretrained.rename import rename
from kdjax.pretrained.vit_class_token import NAMES, split

LAYER = r'(vision|text)_model\.encoder\.layers\.(\d+)\.'
MODULES = {
  r'vision_model\.embeddings\.patch_embedding': 'vision/patch',
  r'vision_model\.post_layernorm': 'vision/norm',
  r'vision_model\.head\.attention\.(query|key|value)': r'vision/pool/\1',
  r'vision_model\.head\.attention\.out_proj': 'vision/pool/out',
  r'vision_model\.head\.layernorm': 'vision/pool/norm',
  r'vision_model\.head\.mlp\.fc1': 'vision/pool/mlp_in',
  r'vision_model\.head\.mlp\.fc2': 'vision/pool/mlp_out',
  r'text_model\.final_layer_norm': 'text/norm',
  r'text_model\.head': 'text/project',
  LAYER + r'self_attn\.out_proj': r'\1/block<\2>/attention/out',
  LAYER + r'layer_norm(\d)': r'\1/block<\2>/norm\3',
  LAYER + r'mlp\.fc1': r'\1/block<\2>/mlp_in',
  LAYER + r'mlp\.fc2': r'\1/block<\2>/mlp_out',
} | {LAYER + rf'self_attn\.{k[0]}_proj': rf'\1/block<\2>/attention/{k}' for k in ('query', 'key', 'value')}
WHOLE = {
  r'vision_model\.embeddings\.position_embedding\.weight': 'params/vision/position',
  r'vision_model\.head\.probe': 'params/vision/pool/probe',
  r'text_model\.embeddings\.token_embedding\.weight': 'params/text/words/embedding',
  r'text_model\.embeddings\.position_embedding\.weight': 'params/text/positions/embedding',
  '(logit_scale|logit_bias)': r'params/\1',
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.multimodal.siglip`."""
  # torch fuses the pool's three projections into one tensor, whose length divides by three.
  fused = {k: k.replace('.in_proj_', '.qkv.') for k, x in tensors.items() if len(x.shape) and not len(x) % 3}
  variables = rename(
    split({fused.get(name, name): x for name, x in tensors.items()}),
    MODULES,
    WHOLE,
    r'(text|vision)_model\.embeddings\.position_ids',
  )
  variables = {name.replace('params/vision/', 'params/image/'): x for name, x in variables.items()}
  for name, x in variables.items():
    if name in ('params/logit_scale', 'params/logit_bias') and x.shape == (1,):
      variables[name] = x.reshape(())
    elif name == 'params/image/position':
      variables[name] = x[None]
  return variables


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The attributes of the two towers in a config.json.

  Raises:
    KdjaxError: for another kind of model, and for an image tower that is not pooled.
  """
  hf_config.kind(config_json, 'siglip', ('siglip',), 'siglip')
  image, text = config_json.get('vision_config', {}), config_json.get('text_config', {})
  if not image.get('vision_use_head', True):
    raise KdjaxError('vision_use_head is false in the config.json; the model siglip has its pooling head.')
  text_tower = {'model': 'siglip_text'} | {k: text[v] for k, v in TEXT.items() if v in text}
  if text.get('projection_size') not in (None, text.get('hidden_size', 768)):
    text_tower['project'] = text['projection_size']
  image_tower = {'model': 'siglip_image'} | {k: image[v] for k, v in NAMES.items() if v in image}
  return {'image': image_tower | images.scaling({}, folder), 'text': text_tower}
