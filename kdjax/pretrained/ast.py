"""AST checkpoints in the names of Hugging Face transformers, to models.audio.ast."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.pretrained import hf_config, vit_class_token
from kdjax.pretrained.find import companion
from kdjax.pretrained.rename import rename

KIND = 'audio-spectrogram-transformer'
NAMES = vit_class_token.NAMES | {'time_stride': 'time_stride', 'frequency_stride': 'frequency_stride'}
MEL = {'mels': 'num_mel_bins', 'length': 'max_length'}
SCALE = {'rate': 'sampling_rate', 'mean': 'mean', 'std': 'std'}
MODULES = {
  r'classifier\.layernorm': 'head/norm',
  r'classifier\.dense': 'head/linear',
} | vit_class_token.MODULES
WHOLE = vit_class_token.WHOLE | {r'embeddings\.distillation_token': 'params/distillation'}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.audio.ast`, with the classifier where the model has one."""
  bare = {name.removeprefix('audio_spectrogram_transformer.'): x for name, x in tensors.items()}
  return rename(bare, MODULES, WHOLE, '' if attributes['num_classes'] else r'classifier\..*')


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json.

  Raises:
    KdjaxError: for another kind of model.
  """
  hf_config.kind(config_json, 'ast', (KIND,), KIND)
  preprocessor = companion(folder, 'preprocessor_config.json')
  mel = {'preset': 'ast'} | {
    ours: config_json[theirs] for ours, theirs in MEL.items() if theirs in config_json
  }
  mel |= {ours: preprocessor[theirs] for ours, theirs in (MEL | SCALE).items() if theirs in preprocessor}
  if preprocessor.get('do_normalize', True) is False:
    mel |= {'mean': 0.0, 'std': 0.5}
  return {ours: config_json[theirs] for ours, theirs in NAMES.items() if theirs in config_json} | {'mel': mel}
