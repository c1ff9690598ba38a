"""wav2vec 2.0, HuBERT and WavLM checkpoints in the names of transformers, to models.audio.wav2vec2."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained import hf_config
from kdjax.pretrained.find import companion
from kdjax.pretrained.rename import rename

KINDS = ('wav2vec2', 'hubert', 'wavlm')
NAMES = {
  'convs': 'conv_dim',
  'kernels': 'conv_kernel',
  'strides': 'conv_stride',
  'conv_bias': 'conv_bias',
  'position_kernel': 'num_conv_pos_embeddings',
  'position_groups': 'num_conv_pos_embedding_groups',
  'width': 'hidden_size',
  'depth': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'mlp': 'intermediate_size',
  'pre_norm': 'do_stable_layer_norm',
  'act': 'hidden_act',
  'eps': 'layer_norm_eps',
}
PLAIN = {  # the only values that models.audio.wav2vec2 has
  'feat_extract_activation': 'gelu',
  'feat_proj_layer_norm': True,
  'conv_pos_batch_norm': False,
  'add_adapter': False,
}
LAYER = r'encoder\.layers\.(\d+)\.'
CONV = r'feature_extractor\.conv_layers\.(\d+)\.'
MODULES = {
  CONV + 'conv': r'conv<\1>',
  CONV + 'layer_norm': r'conv<\1>_norm',
  r'feature_projection\.layer_norm': 'norm_in',
  r'feature_projection\.projection': 'project',
  r'encoder\.layer_norm': 'norm',
  LAYER + r'attention\.out_proj': r'block<\1>/attention/out',
  LAYER + r'attention\.gru_rel_pos_linear': r'block<\1>/attention/gate',
  LAYER + 'layer_norm': r'block<\1>/norm1',
  LAYER + 'final_layer_norm': r'block<\1>/norm2',
  LAYER + r'feed_forward\.intermediate_dense': r'block<\1>/mlp_in',
  LAYER + r'feed_forward\.output_dense': r'block<\1>/mlp_out',
  'projector': 'head/project',
  'classifier': 'head/linear',
} | {LAYER + rf'attention\.{k[0]}_proj': rf'block<\1>/attention/{k}' for k in ('query', 'key', 'value')}
POSITIONS = r'encoder\.pos_conv_embed\.conv\.'
WHOLE = {
  POSITIONS + r'(?:parametrizations\.weight\.original0|weight_g)': 'params/positions/length',
  POSITIONS + r'(?:parametrizations\.weight\.original1|weight_v)': 'params/positions/kernel',
  POSITIONS + 'bias': 'params/positions/bias',
  r'encoder\.layers\.0\.attention\.rel_attn_embed\.weight': 'params/distances/embedding',
  LAYER + r'attention\.gru_rel_pos_const': r'params/block<\1>/attention/factor',
  'layer_weights': 'params/layers',
}
UNREAD = r'masked_spec_embed|quantizer\..*|project_(q|hid)\..*|lm_head\..*'
CLASSIFIER = r'|projector\..*|classifier\..*'


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.audio.wav2vec2`, with the classifier where the model has one."""
  bare = {}
  for name, x in tensors.items():
    name = re.sub(r'^(wav2vec2|hubert|wavlm)\.', '', name)
    if x.ndim == 3 and '.conv_layers.' in name:  # a convolution over frames and a single column
      x = x[..., None]
    elif x.ndim == 3 and re.fullmatch(POSITIONS + '.*', name):  # [O, I, K] and [1, 1, K]
      x = x.transpose(2, 1, 0) if x.shape[:2] != (1, 1) else x[0, 0]
    elif name.endswith('.gru_rel_pos_const'):
      x = x.reshape(-1)
    bare[name] = x
  unread = UNREAD + ('' if attributes['num_classes'] else CLASSIFIER)
  return rename(bare, MODULES, WHOLE, unread + ('' if attributes['weighted'] else '|layer_weights'))


def check_head(
  config_json: Mapping[str, Any], tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
  """Checks that the model's classifier reads what the checkpoint's does.

  Raises:
    KdjaxError: if it does not.
  """
  if 'layer_weights' in tensors and not attributes['weighted']:
    raise KdjaxError(
      "the checkpoint's classifier reads a mean of all layers: set weighted of the model to True."
    )


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json, and the scaling of the sound in preprocessor_config.json.

  Raises:
    KdjaxError: for another kind of model, and for what the module has not.
  """
  kind = hf_config.kind(config_json, 'wav2vec2', KINDS)
  hf_config.plain(config_json, PLAIN, 'wav2vec2')
  if config_json.get('adapter_attn_dim') is not None:
    raise KdjaxError('config.json has adapter_attn_dim; the model wav2vec2 has no adapters.')
  norm = config_json.get('feat_extract_norm', 'group')
  if norm not in ('group', 'layer'):
    raise unknown('feat_extract_norm', str(norm), ('group', 'layer'))
  attributes = hf_config.attributes(config_json, NAMES) | {'norm_all': norm == 'layer'}
  attributes = {k: tuple(x) if isinstance(x, list) else x for k, x in attributes.items()}
  if kind == 'wavlm':
    attributes |= {'buckets': config_json.get('num_buckets', 320)}
    attributes |= {'farthest': config_json.get('max_bucket_distance', 800)}
  if any(name.endswith('ForSequenceClassification') for name in hf_config.heads(config_json)):
    attributes |= {'project': config_json.get('classifier_proj_size', 256)}
    attributes |= {'weighted': bool(config_json.get('use_weighted_layer_sum'))}
  return attributes | _sound(folder)


def _sound(folder):
  """`rate`, `scaled` and `masked`; without a file as transformers' feature extractor has them."""
  path = folder / 'preprocessor_config.json'
  settings = companion(folder, path.name)
  settings = settings or companion(folder, 'processor_config.json').get('feature_extractor', {})
  settings = {k: x for k, x in settings.items() if x is not None} if isinstance(settings, Mapping) else {}
  if settings.get('padding_value', 0.0) != 0:
    raise KdjaxError(f'{path} has padding_value {settings["padding_value"]!r}; it has to be 0.')
  keys = {
    'rate': ('sampling_rate', 16_000, options.Count),
    'scaled': ('do_normalize', True, bool),
    'masked': ('return_attention_mask', False, bool),
  }
  return {
    ours: options.check(settings.get(theirs, default), kind, f'{path}: {theirs}')
    for ours, (theirs, default, kind) in keys.items()
  }
