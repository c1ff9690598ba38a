"""SigLIP checkpoints in the names of Hugging Face transformers, to models.multimodal.siglip."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained import images
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
  # torch keeps the pool's three projections in one, which divides by three or is of no such model.
  fused = {k: k.replace('.in_proj_', '.qkv.') for k, x in tensors.items() if len(x.shape) and not len(x) % 3}
  found = rename(
    split({fused.get(name, name): x for name, x in tensors.items()}),
    MODULES,
    WHOLE,
    r'(text|vision)_model\.embeddings\.position_ids',
  )
  found = {name.replace('params/vision/', 'params/image/'): x for name, x in found.items()}
  for name, x in found.items():
    if name in ('params/logit_scale', 'params/logit_bias') and x.shape == (1,):
      found[name] = x.reshape(())
    elif name == 'params/image/position':
      found[name] = x[None]
  return found


def config(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The attributes of the two towers that a config.json says.

  Raises:
    KdjaxError: for another kind of model, and for an image tower that is not pooled.
  """
  if given.get('model_type', 'siglip') != 'siglip':
    raise unknown('model_type for the model siglip', given['model_type'], ('siglip',))
  image, text = given.get('vision_config', {}), given.get('text_config', {})
  if not image.get('vision_use_head', True):
    raise KdjaxError('vision_use_head is false in the config.json; the model siglip has its pooling head.')
  words = {'model': 'siglip_text'} | {k: text[v] for k, v in TEXT.items() if v in text}
  if text.get('projection_size') not in (None, text.get('hidden_size', 768)):
    words['project'] = text['projection_size']
  seen = {'model': 'siglip_image'} | {k: image[v] for k, v in NAMES.items() if v in image}
  return {'image': seen | images.scaling({}, folder), 'text': words}
