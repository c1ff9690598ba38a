"""MobileNetV3 checkpoints in the names of timm and torchvision, to models.vision.mobilenet_v3."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.pretrained import images
from kdjax.pretrained.block_names import ROW, check_norms, dense, in_one_row, of_torchvision
from kdjax.pretrained.rename import rename, timm

ARCHITECTURE = re.compile(
  r'(?:mobilenet_v3_(?P<torchvision>small|large)'
  r'|(?P<tf>tf_)?mobilenetv3_(?P<size>small|large)_(?P<minimal>minimal_)?(?P<width>050|075|100))(?:\..*)?'
)
CHOICES = ['mobilenetv3_small_050', 'mobilenetv3_small_075', 'mobilenetv3_small_100', 'mobilenetv3_large_100']
CHOICES += ['tf_mobilenetv3_large_minimal_100', 'mobilenet_v3_small', 'mobilenet_v3_large']
MODULES = {
  r'conv_stem|features\.0\.0': 'stem',
  r'bn1|features\.0\.1': 'stem_norm',
  r'block\d+/conv|features\.\d+\.0': 'last',  # the last block of timm
  r'block\d+/conv_norm|features\.\d+\.1': 'last_norm',
  r'conv_head|classifier\.0': 'hidden',
  r'classifier|classifier\.3': 'head/linear',
} | ROW


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.mobilenet_v3`, with the classifier where the model has one.

  Raises:
    KdjaxError: for names of a library that pads or normalises otherwise than the model.
  """
  if of_torchvision(tensors):
    check_norms(attributes, True, 1e-3, 'torchvision')
  else:
    check_norms(attributes, attributes['torch'], 1e-5 if attributes['torch'] else 1e-3, 'timm')
  row = dense(in_one_row(tensors), 'conv_head')
  return rename(row, MODULES, ignored='' if attributes['num_classes'] else r'classifier\.(3\.)?(weight|bias)')


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json of timm, or one with a name of torchvision.

  Raises:
    KdjaxError: for another architecture.
  """
  match = timm(config_json, ARCHITECTURE, 'mobilenet_v3', CHOICES)
  if match['torchvision']:
    return {'size': match['torchvision'], 'torch': True, 'eps': 1e-3} | images.scaling(config_json, folder)
  attributes = {'size': match['size'], 'width': int(match['width']) / 100, 'minimal': bool(match['minimal'])}
  attributes |= {'torch': not match['tf'], 'eps': 1e-3 if match['tf'] else 1e-5}
  inception = {'mean': (0.5,) * 3, 'std': (0.5,) * 3} if match['tf'] else {}
  return attributes | inception | images.scaling(config_json, folder)
