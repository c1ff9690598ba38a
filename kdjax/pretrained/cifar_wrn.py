"""Checkpoints of wide residual networks in the names of RepDistiller, to models.vision.cifar_wrn."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.pretrained.rename import rename

BLOCK = r'block(\d)\.layer\.(\d+)\.'
MODULES = {
  'conv1': 'stem',
  'bn1': 'norm',
  BLOCK + r'conv(\d)': r'stage\1_block<\2>/conv\3',
  BLOCK + r'bn(\d)': r'stage\1_block<\2>/norm\3',
  BLOCK + 'convShortcut': r'stage\1_block<\2>/shortcut',
  'fc': 'head/linear',
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.cifar_wrn`, with the classifier where the model has one."""
  return rename(tensors, MODULES, ignored='' if attributes['num_classes'] else r'fc\..*')
