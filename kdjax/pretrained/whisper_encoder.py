"""Whisper checkpoints in the names of Hugging Face transformers, to models.audio.whisper_encoder."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.pretrained import hf_config
from kdjax.pretrained.find import companion
from kdjax.pretrained.rename import rename

NAMES = {
  'width': 'd_model',
  'depth': 'encoder_layers',
  'heads': 'encoder_attention_heads',
  'mlp': 'encoder_ffn_dim',
  'positions': 'max_source_positions',
  'act': 'activation_function',
}
LAYER = r'layers\.(\d+)\.'
MODULES = {
  r'(conv\d)': r'\1',
  LAYER + r'self_attn\.out_proj': r'block<\1>/attention/out',
  LAYER + 'self_attn_layer_norm': r'block<\1>/norm1',
  LAYER + 'final_layer_norm': r'block<\1>/norm2',
  LAYER + 'fc1': r'block<\1>/mlp_in',
  LAYER + 'fc2': r'block<\1>/mlp_out',
  'layer_norm': 'norm',
  'projector': 'head/project',
  'classifier': 'head/linear',
} | {LAYER + rf'self_attn\.{k[0]}_proj': rf'block<\1>/attention/{k}' for k in ('query', 'key', 'value')}
WHOLE = {r'embed_positions\.weight': 'buffers/positions'}
UNREAD = r'decoder\..*|proj_out\..*'
CLASSIFIER = r'|projector\..*|classifier\..*|layer_weights'
MEL = {'mels': 'feature_size', 'rate': 'sampling_rate', 'hop': 'hop_length', 'n_fft': 'n_fft'}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.audio.whisper_encoder`; the decoder is not read."""
  bare = {re.sub(r'^(model\.)?(encoder\.)?', '', name): x for name, x in tensors.items()}
  # A convolution over frames is one over frames and a single column.
  bare = {k: x[..., None] if k.startswith('conv') and x.ndim == 3 else x for k, x in bare.items()}
  variables = rename(bare, MODULES, WHOLE, UNREAD + ('' if attributes['num_classes'] else CLASSIFIER))
  keys = [name for name in variables if name.endswith('/attention/key/kernel')]
  zeros = {name.replace('kernel', 'bias'): np.zeros(variables[name].shape[-1:], np.float32) for name in keys}
  return zeros | variables


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json.

  Raises:
    KdjaxError: for another kind of model.
  """
  hf_config.kind(config_json, 'whisper_encoder', ('whisper',), 'whisper')
  attributes = {ours: config_json[theirs] for ours, theirs in NAMES.items() if theirs in config_json}
  preprocessor = companion(folder, 'preprocessor_config.json')
  if preprocessor.get('dither'):
    raise KdjaxError(
      f'{folder / "preprocessor_config.json"} has dither {preprocessor["dither"]}, which is noise: set it '
      'to 0.'
    )
  mel = {
    'preset': 'whisper',
    'length': 2 * config_json.get('max_source_positions', 1500),
  }  # the only length that its encoder reads
  mel |= {'mels': config_json['num_mel_bins']} if 'num_mel_bins' in config_json else {}
  mel |= {ours: preprocessor[theirs] for ours, theirs in MEL.items() if theirs in preprocessor}
  if 'WhisperForAudioClassification' in (config_json.get('architectures') or ()):
    attributes |= {'pool': 'all', 'project': config_json.get('classifier_proj_size', 256)}
  return attributes | {'mel': mel}


def check_head(
  config_json: Mapping[str, Any], tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
  """Checks that the model pools as the checkpoint's classifier does.

  Raises:
    KdjaxError: if it does not.
  """
  if 'layer_weights' in tensors:
    raise KdjaxError(
      "the checkpoint's classifier reads a weighted sum of all layers: it has to read the last alone."
    )
  if 'projector.weight' in tensors and attributes['pool'] != 'all':
    raise KdjaxError(
      "the checkpoint's classifier reads all positions, and the pool of the model is "
      f"{attributes['pool']!r}: set its pool to 'all'."
    )
