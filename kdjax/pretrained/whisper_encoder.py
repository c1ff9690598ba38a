"""Whisper checkpoints in the names of Hugging Face transformers, to models.audio.whisper_encoder."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError, unknown
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
  """Flat variables of `models.audio.whisper_encoder`; the decoder is left where it is."""
  bare = {re.sub(r'^(model\.)?(encoder\.)?', '', name): x for name, x in tensors.items()}
  # A convolution over frames is one over frames and a single column.
  bare = {k: x[..., None] if k.startswith('conv') and x.ndim == 3 else x for k, x in bare.items()}
  found = rename(bare, MODULES, WHOLE, UNREAD + ('' if attributes['num_classes'] else CLASSIFIER))
  keys = [name for name in found if name.endswith('/attention/key/kernel')]
  zeros = {name.replace('kernel', 'bias'): np.zeros(found[name].shape[-1:], np.float32) for name in keys}
  return zeros | found


def config(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes that a config.json says.

  Raises:
    KdjaxError: for another kind of model.
  """
  if given.get('model_type', 'whisper') != 'whisper':
    raise unknown('model_type for the model whisper_encoder', given['model_type'], ('whisper',))
  found = {ours: given[theirs] for ours, theirs in NAMES.items() if theirs in given}
  said = companion(folder, 'preprocessor_config.json')
  if said.get('dither'):
    raise KdjaxError(
      f'{folder / "preprocessor_config.json"} has dither {said["dither"]}, which is noise: set it to 0.'
    )
  mel = {
    'preset': 'whisper',
    'length': 2 * given.get('max_source_positions', 1500),
  }  # its encoder reads no other
  mel |= {'mels': given['num_mel_bins']} if 'num_mel_bins' in given else {}
  mel |= {ours: said[theirs] for ours, theirs in MEL.items() if theirs in said}
  if 'WhisperForAudioClassification' in (given.get('architectures') or ()):
    found |= {'pool': 'all', 'project': given.get('classifier_proj_size', 256)}
  return found | {'mel': mel}


def check_head(
  given: Mapping[str, Any], tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
  """That the model reads off what the checkpoint's classifier reads.

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
