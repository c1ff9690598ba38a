"""CLAP checkpoints in the names of Hugging Face transformers, to models.multimodal.clap."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.errors import KdjaxError
from kdjax.pretrained import bert, hf_config, swin
from kdjax.pretrained.find import companion
from kdjax.pretrained.rename import rename, within

AUDIO = {
  'side': 'spec_size',
  'width': 'patch_embeds_hidden_size',
  'depths': 'depths',
  'heads': 'num_attention_heads',
  'window': 'window_size',
  'patch': 'patch_size',
  'mlp': 'mlp_ratio',
  'act': 'hidden_act',
  'eps': 'layer_norm_eps',
}
PLAIN = {'enable_patch_layer_norm': True, 'patch_embed_input_channels': 1, 'qkv_bias': True}
PLAIN |= {'flatten_patch_embeds': True}
TEXT = {'max_position_embeddings': 514, 'type_vocab_size': 1}  # where its config.json leaves them out
MEL = {'rate': 'sampling_rate', 'n_fft': 'fft_window_size', 'hop': 'hop_length', 'mels': 'feature_size'}
MEL |= {'low': 'frequency_min', 'high': 'frequency_max'}
MODULES = {
  r'(audio|text)_projection\.linear1': r'project_\1/mlp_in',
  r'(audio|text)_projection\.linear2': r'project_\1/mlp_out',
}
WHOLE = {'logit_scale_a': 'params/logit_scale', 'logit_scale_t': 'params/logit_scale_text'}
UNFUSED = 'take one without fusion, such as laion/clap-htsat-unfused'


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.multimodal.clap`."""
  parts = {
    'audio_model.audio_encoder.': ('audio', lambda part: _audio(part, attributes['audio'])),
    'text_model.': ('text', lambda part: bert.convert(part, attributes['text'])),
  }
  variables = rename({k: x for k, x in tensors.items() if not k.startswith(tuple(parts))}, MODULES, WHOLE)
  for prefix, (path, of_part) in parts.items():
    variables |= within(tensors, prefix, path, of_part)
  return variables


def _audio(tensors, attributes):
  """Those of `models.audio.htsat`, a Swin's and the norm of the mels."""
  norm = {k: x for k, x in tensors.items() if k.startswith('batch_norm.')}
  body = {re.sub('^layers', 'encoder.layers', k): x for k, x in tensors.items() if k not in norm}
  return rename(norm, {'batch_norm': 'mel_norm'}) | swin.convert(body, attributes)


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The attributes of the module and of its two towers, and how its sounds become spectrograms.

  Raises:
    OtherKind: for another kind of model.
    KdjaxError: for a model with fusion, of four spectrograms a sound.
  """
  hf_config.kind(config_json, 'clap', ('clap',))
  audio, text = (config_json.get(f'{k}_config') or {} for k in ('audio', 'text'))
  if audio.get('enable_fusion'):
    raise KdjaxError(
      f'{folder / "config.json"} has enable_fusion, and the model clap reads one spectrogram: {UNFUSED}.'
    )
  hf_config.plain(audio, PLAIN, 'clap')
  tower = {k: tuple(x) if isinstance(x, list) else x for k, x in hf_config.attributes(audio, AUDIO).items()}
  strides, patch = audio.get('patch_stride', 4), audio.get('patch_size', 4)
  if strides not in (patch, [patch, patch]):
    raise KdjaxError(
      f'config.json has patch_stride {strides}; the model clap has that of patch_size, {patch}.'
    )
  tower |= {'model': 'htsat', 'mel': _mel(audio, folder)}
  words = bert.config(TEXT | dict(text) | {'model_type': 'roberta', 'architectures': None}, folder)
  return {
    'width': config_json.get('projection_dim', 512),
    'act': config_json.get('projection_hidden_act', 'relu'),
    'audio': tower,
    'text': {'model': 'bert', 'pool': 'tanh'} | words,
  }


def _mel(audio, folder):
  """The settings of the spectrograms in a preprocessor_config.json."""
  path, preprocessor = folder / 'preprocessor_config.json', companion(folder, 'preprocessor_config.json')
  mel = {'preset': 'clap'} | ({'mels': audio['num_mel_bins']} if 'num_mel_bins' in audio else {})
  if not preprocessor:
    return mel
  if preprocessor.get('truncation', 'fusion') != 'rand_trunc':
    raise KdjaxError(f'{path} has truncation {preprocessor.get("truncation", "fusion")!r}: {UNFUSED}.')
  padding = preprocessor.get('padding', 'repeatpad')
  if padding not in ('repeatpad', 'pad'):
    raise KdjaxError(f"{path} has padding {padding!r}; it has to be 'repeatpad' or 'pad'.")
  mel |= hf_config.attributes(preprocessor, MEL) | {'repeat': padding == 'repeatpad'}
  counts = {'sampling_rate': 48_000, 'hop_length': 480} | preprocessor
  rate, hop = (
    options.check(counts[k], options.Count, f'{path}: {k}') for k in ('sampling_rate', 'hop_length')
  )
  seconds = options.check(preprocessor.get('max_length_s', 10), options.Positive, f'{path}: max_length_s')
  return mel | {'length': int(seconds * rate) // hop}
