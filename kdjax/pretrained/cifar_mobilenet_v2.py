"""Checkpoints of MobileNetV2 in the names of RepDistiller, to models.vision.cifar_mobilenet_v2."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.pretrained.rename import rename

MODULES = {
  r'conv1\.0': 'stem',
  r'conv1\.1': 'stem_norm',
  r'conv2\.0': 'last',
  r'conv2\.1': 'last_norm',
  r'classifier\.0': 'head/linear',
}
# The layer at each index of a block; the other indices are ReLUs.
PLACES = {0: 'expand', 1: 'expand_norm', 3: 'depthwise', 4: 'depthwise_norm', 6: 'project', 7: 'project_norm'}
MODULES |= {rf'blocks\.(\d)\.(\d)\.conv\.{i}': rf'group<\1>_block<\2>/{part}' for i, part in PLACES.items()}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.cifar_mobilenet_v2`, with the classifier where the model has one."""
  return rename(tensors, MODULES, ignored='' if attributes['num_classes'] else r'classifier\..*')
