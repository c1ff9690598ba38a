"""ResNet checkpoints in the names of torchvision, timm and transformers, to models.vision.resnet_imagenet."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.pretrained import images
from kdjax.pretrained.rename import rename, timm

ARCHITECTURE = re.compile(r'resnet(18|34|50|101|152)(\..*)?')
BLOCK = r'layer(\d)\.(\d+)\.'
HF, LAYER = r'(?:resnet\.)?', r'encoder\.stages\.(\d)\.layers\.(\d+)\.'
# What transformers can have otherwise, and this model has not.
PLAIN = {'downsample_in_first_stage': False, 'downsample_in_bottleneck': False, 'hidden_act': 'relu'}
# Layers of each stage, and their kind, as transformers names it.
DEPTHS = {18: ([2, 2, 2, 2], 'basic'), 34: ([3, 4, 6, 3], 'basic'), 50: ([3, 4, 6, 3], 'bottleneck')}
DEPTHS |= {101: ([3, 4, 23, 3], 'bottleneck'), 152: ([3, 8, 36, 3], 'bottleneck')}
MODULES = {
  'conv1': 'stem',
  'bn1': 'stem_norm',
  BLOCK + r'conv(\d)': r'stage\1_block<\2>/conv\3',
  BLOCK + r'bn(\d)': r'stage\1_block<\2>/norm\3',
  BLOCK + r'downsample\.0': r'stage\1_block<\2>/shortcut',
  BLOCK + r'downsample\.1': r'stage\1_block<\2>/shortcut_norm',
  r'fc|classifier\.1': 'head/linear',
  # Those of transformers.
  HF + r'embedder\.embedder\.convolution': 'stem',
  HF + r'embedder\.embedder\.normalization': 'stem_norm',
  HF + LAYER + r'layer\.(\d)\.convolution': r'stage<\1>_block<\2>/conv<\3>',
  HF + LAYER + r'layer\.(\d)\.normalization': r'stage<\1>_block<\2>/norm<\3>',
  HF + LAYER + r'shortcut\.convolution': r'stage<\1>_block<\2>/shortcut',
  HF + LAYER + r'shortcut\.normalization': r'stage<\1>_block<\2>/shortcut_norm',
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.resnet_imagenet`, with the classifier where the model has one."""
  return rename(tensors, MODULES, ignored='' if attributes['num_classes'] else r'(fc|classifier\.1)\..*')


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json of timm or transformers, and the scaling of images.

  Raises:
    KdjaxError: for another architecture.
  """
  if config_json.get('model_type') == 'resnet':
    return {'depth': _depth(config_json)} | images.scaling(config_json, folder)
  choices = [f'resnet{n}' for n in (18, 34, 50, 101, 152)]
  match = timm(config_json, ARCHITECTURE, 'resnet_imagenet', choices)
  return {'depth': int(match[1])} | images.scaling(config_json, folder)


def _depth(config_json):
  """Of a config.json of transformers, whose defaults are those of ResNet-50."""
  for key, value in PLAIN.items():
    if config_json.get(key, value) != value:
      raise KdjaxError(
        f'config.json has {key} {config_json[key]!r}; the model resnet_imagenet has {value!r}.'
      )
  blocks, kind = config_json.get('depths', [3, 4, 6, 3]), config_json.get('layer_type', 'bottleneck')
  depths = [d for d, layout in DEPTHS.items() if layout == (blocks, kind)]
  if not depths:
    raise KdjaxError(f'config.json has depths {blocks!r} of {kind!r}, which no depth of resnet_imagenet has.')
  return depths[0]
