"""EfficientNet-Lite checkpoints with the names of either torch port, to models.vision.efficientnet_lite."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.pretrained import images
from kdjax.pretrained.block_names import ROW, in_one_row
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
  # timm's.
  'bn1': 'stem_norm',
  'bn2': 'last_norm',
} | ROW


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.efficientnet_lite`, with the classifier where the model has one."""
  head = '' if attributes['num_classes'] else r'(_fc|classifier)\..*'
  return rename(in_one_row(tensors), MODULES, ignored=head)


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
