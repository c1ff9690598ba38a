"""Checkpoints of ShuffleNet in the names of RepDistiller, to models.vision.cifar_shufflenet_v1 and _v2."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.pretrained.rename import rename

MODULES = {
  'conv1': 'stem',
  'bn1': 'stem_norm',
  r'layer(\d)\.(\d+)\.conv(\d)': r'stage\1_block<\2>/conv\3',
  r'layer(\d)\.(\d+)\.bn(\d)': r'stage\1_block<\2>/norm\3',
  'conv2': 'last',  # which ShuffleNetV2 alone has
  'bn2': 'last_norm',
  'linear': 'head/linear',
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.cifar_shufflenet_v1`, with the classifier where the model has one."""
  return rename(tensors, MODULES, ignored='' if attributes['num_classes'] else r'linear\..*')
