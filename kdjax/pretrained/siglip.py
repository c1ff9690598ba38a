"""SigLIP and SigLIP 2 in the names of transformers and open_clip, to models.multimodal.siglip."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.errors import KdjaxError
from kdjax.pretrained import hf_config, images, open_clip
from kdjax.pretrained.clip import TEXT
from kdjax.pretrained.rename import rename
from kdjax.pretrained.vit_class_token import NAMES, split, unfused

KINDS = ('siglip', 'siglip2', hf_config.OPEN_CLIP)
PATCH = 'vision_model.embeddings.patch_embedding.weight'
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
  """Flat variables of `models.multimodal.siglip`; NaFlex has a dense layer of a patch's pixels."""
  if open_clip.named(tensors):
    return open_clip.convert(tensors)
  kernel, side = tensors.get(PATCH), attributes['image']['patch']
  if kernel is not None and kernel.ndim == 2 and not kernel.size % (len(kernel) * side**2):
    tensors = dict(tensors) | {PATCH: kernel.reshape(len(kernel), side, side, -1).transpose(0, 3, 1, 2)}
  variables = rename(
    split(unfused(tensors)), MODULES, WHOLE, r'(text|vision)_model\.embeddings\.position_ids'
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

  The NaFlex of SigLIP 2 reads square images of the number of patches that it was trained on, whose positions
  are those of its table; others would need positions of other sizes.

  Raises:
    OtherKind: for another kind of model.
    KdjaxError: for an image tower that is not pooled, and for a NaFlex whose table is of no square.
  """
  kind = hf_config.kind(config_json, 'siglip', KINDS, 'siglip')
  if kind == hf_config.OPEN_CLIP:
    return open_clip.siglip(config_json, folder)
  image, text = config_json.get('vision_config', {}), config_json.get('text_config', {})
  if not image.get('vision_use_head', True):
    raise KdjaxError('vision_use_head is false in the config.json; the model siglip has its pooling head.')
  patches = image.get('num_patches', 256)
  if kind == 'siglip2' and math.isqrt(options.check(patches, options.Size, 'num_patches')) ** 2 != patches:
    raise KdjaxError(
      f'config.json has num_patches {patches}, which are no square: take a SigLIP 2 of one resolution, such '
      'as google/siglip2-base-patch16-256.'
    )
  text_tower = {'model': 'siglip_text'} | {k: text[v] for k, v in TEXT.items() if v in text}
  if text.get('projection_size') not in (None, text.get('hidden_size', 768)):
    text_tower['project'] = text['projection_size']
  image_tower = {'model': 'siglip_image'} | {k: image[v] for k, v in NAMES.items() if v in image}
  return {'image': image_tower | images.scaling({}, folder), 'text': text_tower}
