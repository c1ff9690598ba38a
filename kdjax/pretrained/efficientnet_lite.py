"""EfficientNet-Lite checkpoints with the names of either torch port, to models.vision.efficientnet_lite."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.pretrained import images
from kdjax.pretrained.rename import rename, timm

ARCHITECTURE = re.compile(r'(tf_)?efficientnet_lite(\d).*')
MODULES = {
  '_?conv_stem': 'stem',
  '_?conv_head': 'last',
  '_fc|classifier': 'head/linear',
  # Luke Melas-Kyriazi's names: blocks in one row, norms counted from the expansion.
  r'_bn0': 'stem_norm',
  r'_bn1': 'last_norm',
  r'_blocks\.(\d+)\._(expand|depthwise|project)_conv': r'block<\1>/\2',
  r'_blocks\.(\d+)\._bn0': r'block<\1>/expand_norm',
  r'_blocks\.(\d+)\._bn1': r'block<\1>/depthwise_norm',
  r'_blocks\.(\d+)\._bn2': r'block<\1>/project_norm',
  # timm's: the first stage has no expansion, and there conv_pw is the projection.
  'bn1': 'stem_norm',
  'bn2': 'last_norm',
  r'blocks\.0\.(\d+)\.conv_pw': r'block<\1>/project',
  r'blocks\.0\.(\d+)\.bn1': r'block<\1>/depthwise_norm',
  r'blocks\.0\.(\d+)\.bn2': r'block<\1>/project_norm',
  r'blocks\.(\d+)\.conv_pw': r'block<\1>/expand',
  r'blocks\.(?:0\.)?(\d+)\.conv_dw': r'block<\1>/depthwise',
  r'blocks\.(\d+)\.conv_pwl': r'block<\1>/project',
  r'blocks\.(\d+)\.bn1': r'block<\1>/expand_norm',
  r'blocks\.(\d+)\.bn2': r'block<\1>/depthwise_norm',
  r'blocks\.(\d+)\.bn3': r'block<\1>/project_norm',
}
NESTED = re.compile(r'blocks\.([1-9]\d*)\.(\d+)\.')


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.efficientnet_lite`, with the classifier where the model has one."""
  first = {int(m[1]) for name in tensors if (m := re.match(r'blocks\.0\.(\d+)\.', name))}
  later = sorted({(int(m[1]), int(m[2])) for name in tensors if (m := NESTED.match(name))})
  block_index = {key: len(first) + i for i, key in enumerate(later)}

  def flat_name(match):
    return f'blocks.{block_index[int(match[1]), int(match[2])]}.'

  flat = {NESTED.sub(flat_name, name): x for name, x in tensors.items()}
  return rename(flat, MODULES, ignored='' if attributes['num_classes'] else r'(_fc|classifier)\..*')


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json of timm.

  Raises:
    KdjaxError: for another architecture.
  """
  choices = [f'{tf}efficientnet_lite{i}' for tf in ('tf_', '') for i in range(5)]
  match = timm(config_json, ARCHITECTURE, 'efficientnet_lite', choices)
  attributes = {'size': int(match[2]), 'torch': not match[1]}
  return attributes | unsaid(attributes) | images.scaling(config_json, folder)


def unsaid(model: Mapping[str, Any]) -> dict[str, Any]:
  """The scaling of images without a config.json: timm trained its own as torchvision does."""
  return dict(images.IMAGENET) if model.get('torch') else {}
