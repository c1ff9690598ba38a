"""EfficientNet checkpoints of transformers, timm and torchvision, to models.vision.efficientnet."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.errors import KdjaxError
from kdjax.nn.inverted_residual import channels
from kdjax.pretrained import hf_config, images
from kdjax.pretrained.block_names import ROW, check_norms, in_one_row, of_torchvision
from kdjax.pretrained.rename import rename, timm

# Multipliers of width and depth, of B0 to B8.
SIZES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1))
SIZES += ((2.2, 3.6),)
ARCHITECTURE = re.compile(r'(tf_)?efficientnet_b([0-8])(?:\..*)?')
# Of the classes in transformers, where a config.json leaves them out: those of B7.
DEFAULTS = {
  'width_coefficient': 2.0,
  'depth_coefficient': 3.1,
  'depthwise_padding': [],
  'batch_norm_eps': 1e-3,
}
NAMES = {
  'width': ('width_coefficient', options.Multiplier),
  'depth': ('depth_coefficient', options.Multiplier),
  'symmetric': ('depthwise_padding', tuple[options.Whole, ...]),
  'eps': ('batch_norm_eps', options.Eps),
}
PLAIN = {
  'num_channels': 3,
  'depth_divisor': 8,
  'kernel_sizes': [3, 3, 5, 3, 5, 5, 3],
  'in_channels': [32, 16, 24, 40, 80, 112, 192],
  'out_channels': [16, 24, 40, 80, 112, 192, 320],
  'strides': [1, 2, 2, 2, 1, 2, 1],
  'num_block_repeats': [1, 2, 2, 3, 3, 4, 1],
  'expand_ratios': [1, 6, 6, 6, 6, 6, 6],
  'squeeze_expansion_ratio': 0.25,
  'hidden_act': 'swish',
  'pooling_type': 'mean',
}
BLOCK = r'encoder\.blocks\.(\d+)\.'
MODULES = {
  r'embeddings\.convolution|conv_stem|features\.0\.0': 'stem',
  r'embeddings\.batchnorm|bn1|features\.0\.1': 'stem_norm',
  BLOCK + r'expansion\.expand_conv': r'block<\1>/expand',
  BLOCK + r'expansion\.expand_bn': r'block<\1>/expand_norm',
  BLOCK + r'depthwise_conv\.depthwise_conv': r'block<\1>/depthwise',
  BLOCK + r'depthwise_conv\.depthwise_norm': r'block<\1>/depthwise_norm',
  BLOCK + r'squeeze_excite\.(reduce|expand)': r'block<\1>/squeeze/\2',
  BLOCK + r'projection\.project_conv': r'block<\1>/project',
  BLOCK + r'projection\.project_bn': r'block<\1>/project_norm',
  r'encoder\.top_conv|conv_head|features\.8\.0': 'last',
  r'encoder\.top_bn|bn2|features\.8\.1': 'last_norm',
  r'classifier|classifier\.1': 'head/linear',
} | ROW


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.efficientnet`, with the classifier where the model has one.

  Raises:
    KdjaxError: for names of a library that pads or normalises otherwise than the model.
  """
  if of_torchvision(tensors):
    check_norms(attributes, True, 1e-5 if attributes['width'] < 1.6 else 1e-3, 'torchvision')
  elif any(name.startswith('conv_stem.') for name in tensors):
    check_norms(attributes, attributes['torch'], 1e-5 if attributes['torch'] else 1e-3, 'timm')
  bare = {}
  for name, x in in_one_row(tensors).items():
    squeezed = '.squeeze_excite.' in name and x.shape[2:] == (1, 1)
    bare[name.removeprefix('efficientnet.')] = x[..., 0, 0] if squeezed else x
  return rename(
    bare, MODULES, ignored='' if attributes['num_classes'] else r'classifier\.(1\.)?(weight|bias)'
  )


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json of transformers or timm, and the scaling of images.

  Raises:
    KdjaxError: for another kind of model.
  """
  if 'architecture' in config_json:
    choices = [f'{tf}efficientnet_b{i}' for tf in ('', 'tf_') for i in range(len(SIZES))]
    match = timm(config_json, ARCHITECTURE, 'efficientnet', choices)
    attributes = dict(zip(('width', 'depth'), SIZES[int(match[2])], strict=True))
    attributes |= {'torch': not match[1], 'eps': 1e-3 if match[1] else 1e-5}
    return attributes | images.scaling(config_json, folder)
  hf_config.kind(config_json, 'efficientnet', ('efficientnet',))
  hf_config.plain(config_json, PLAIN, 'efficientnet')
  config_json = DEFAULTS | {k: x for k, x in config_json.items() if x is not None}
  attributes = {}
  for ours, (theirs, kind) in NAMES.items():
    attributes[ours] = options.check(config_json[theirs], kind, f'{folder / "config.json"}: {theirs}')
  width = attributes['width']
  if any(channels(a, width) == channels(b, width) for a, b in ((32, 16), (80, 112), (192, 320))):
    raise KdjaxError(
      f'config.json has width_coefficient {width}: the model efficientnet adds the input of the first block '
      'of a stage that has as many channels, and transformers does not.'
    )
  return attributes | images.scaling(config_json, folder)
