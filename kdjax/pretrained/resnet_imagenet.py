"""ResNet checkpoints in the names of torchvision and timm, to models.vision.resnet_imagenet."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.pretrained import images
from kdjax.pretrained.rename import rename, timm

ARCHITECTURE = re.compile(r'resnet(18|34|50|101|152)(\..*)?')
BLOCK = r'layer(\d)\.(\d+)\.'
MODULES = {
  'conv1': 'stem',
  'bn1': 'stem_norm',
  BLOCK + r'conv(\d)': r'stage\1_block<\2>/conv\3',
  BLOCK + r'bn(\d)': r'stage\1_block<\2>/norm\3',
  BLOCK + r'downsample\.0': r'stage\1_block<\2>/shortcut',
  BLOCK + r'downsample\.1': r'stage\1_block<\2>/shortcut_norm',
  'fc': 'head/linear',
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.resnet_imagenet`, with the classifier where the model has one."""
  return rename(tensors, MODULES, ignored='' if attributes['num_classes'] else r'fc\..*')


def config(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes that a config.json of timm says.

  Raises:
    KdjaxError: for another architecture.
  """
  choices = [f'resnet{n}' for n in (18, 34, 50, 101, 152)]
  match = timm(given, ARCHITECTURE, 'resnet_imagenet', choices)
  return {'depth': int(match[1])} | images.scaling(given, folder)
