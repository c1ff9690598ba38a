"""SmolVLM and Idefics3 checkpoints in the names of transformers, to models.multimodal.vision_language."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.pretrained import hf_config, images, llama, siglip
from kdjax.pretrained.rename import rename, within

KINDS = ('smolvlm', 'idefics3')
DEFAULTS = {  # of the image tower, where a config.json leaves them out
  'hidden_size': 1152,
  'intermediate_size': 3072,
  'num_hidden_layers': 12,
  'num_attention_heads': 16,
  'patch_size': 32,
}
MODULES = {r'connector\.modality_projection\.proj': 'connect'}
IMAGE, TEXT = 'vision_model.', 'text_model.'  # what names of the towers begin with


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.multimodal.vision_language`."""
  bare = {k.removeprefix('model.'): x for k, x in tensors.items()}
  bare = {k.replace('lm_head.', f'{TEXT}lm_head.'): x for k, x in bare.items()}
  towers = {k: x for k, x in bare.items() if k.startswith((IMAGE, TEXT))}
  variables = rename({k: x for k, x in bare.items() if k not in towers}, MODULES)
  variables |= siglip.convert({k: x for k, x in towers.items() if k.startswith(IMAGE)}, attributes)
  return variables | within(towers, TEXT, 'text', lambda part: llama.convert(part, attributes['text']))


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The attributes of the module, of its image tower and of its language model.

  Raises:
    OtherKind: for another kind of model.
    KdjaxError: for a language model that is not in the family of `llama`.
  """
  hf_config.kind(config_json, 'vision_language', KINDS)
  image, text = (config_json.get(f'{k}_config') or {} for k in ('vision', 'text'))
  image = DEFAULTS | {k: x for k, x in image.items() if x is not None}
  hf_config.plain(image, {'num_channels': 3}, 'vision_language')
  tower = {'model': 'siglip_image', 'pool': 'mean'} | hf_config.attributes(image, siglip.NAMES)
  text = {'model_type': 'llama', 'rms_norm_eps': 1e-5} | dict(text)
  text |= {'tie_word_embeddings': bool(config_json.get('tie_word_embeddings', False))}
  try:
    words = llama.config(text, folder)
  except hf_config.OtherKind as e:  # of the language model, not of this one
    raise KdjaxError(f'{folder / "config.json"}: text_config: {e}') from e
  return {
    'shuffle': config_json.get('scale_factor', 2),
    'image_token': config_json.get('image_token_id', 128_257),
    'image': tower | images.scaling({}, folder),
    'text': {'model': 'llama'} | words,
  }
