"""GPT-2 and DistilGPT2 checkpoints in the names of Hugging Face transformers, to models.text.gpt2."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.pretrained import hf_config
from kdjax.pretrained.rename import rename
from kdjax.pretrained.vit_class_token import split

NAMES = {
  'vocab_size': 'vocab_size',
  'width': 'n_embd',
  'depth': 'n_layer',
  'heads': 'n_head',
  'mlp': 'n_inner',
  'positions': 'n_positions',
  'act': 'activation_function',
  'eps': 'layer_norm_epsilon',
}
PLAIN = {  # the only values that models.text.gpt2 has
  'scale_attn_weights': True,
  'scale_attn_by_inverse_layer_idx': False,
  'add_cross_attention': False,
  'tie_word_embeddings': True,
}
LAYER = r'h\.(\d+)\.'
MODULES = {
  LAYER + r'ln_(\d)': r'block<\1>/norm\2',
  LAYER + r'attn\.(query|key|value)': r'block<\1>/attention/\2',
  LAYER + r'attn\.c_proj': r'block<\1>/attention/out',
  LAYER + r'mlp\.c_fc': r'block<\1>/mlp_in',
  LAYER + r'mlp\.c_proj': r'block<\1>/mlp_out',
  'ln_f': 'norm',
}
WHOLE = {
  r'wte\.weight': 'params/words/embedding',
  r'wpe\.weight': 'params/positions/embedding',
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.text.gpt2`.

  Raises:
    KdjaxError: if the head is not the word embedding.
  """
  renamed = {}
  for name, x in tensors.items():
    bare = name.removeprefix('transformer.')
    if re.search(r'\.c_(attn|proj|fc)\.', bare):  # [in, out], where `rename` reads [out, in]
      x = x.T
      bare = bare if len(x) % 3 else bare.replace('.c_attn.', '.qkv.')
    renamed[bare] = x
  head = renamed.pop('lm_head.weight', None)
  embedding = renamed.get('wte.weight')
  if head is not None and (embedding is None or not np.array_equal(head, embedding)):
    raise KdjaxError('lm_head.weight is not wte.weight, and the model gpt2 has one table for both.')
  return rename(split(renamed), MODULES, WHOLE, LAYER + r'attn\.(bias|masked_bias)')


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json.

  Raises:
    KdjaxError: for another kind of model.
  """
  hf_config.kind(config_json, 'gpt2', ('gpt2',), 'gpt2')
  for key, plain in PLAIN.items():
    if config_json.get(key, plain) != plain:
      raise KdjaxError(f'{key} is {config_json[key]} in the config.json; the model gpt2 has {plain} only.')
  attributes = {
    ours: config_json[theirs] for ours, theirs in NAMES.items() if config_json.get(theirs) is not None
  }
  return attributes if 'mlp' in attributes else attributes | {'mlp': 4 * config_json.get('n_embd', 768)}
