"""MobileNetV4 checkpoints in the names of timm, those without attention, to models.vision.mobilenet_v4."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.pretrained import images
from kdjax.pretrained.block_names import ROW, dense, in_one_row
from kdjax.pretrained.rename import rename, timm

ARCHITECTURE = re.compile(r'mobilenetv4_conv_(?:(aa_)?(medium|large)|small(?:_(035|050))?)(?:\..*)?')
CHOICES = [
  f'mobilenetv4_conv_{size}' for size in ('small', 'medium', 'large', 'aa_medium', 'aa_large', 'small_050')
]
MODULES = {
  'conv_stem': 'stem',
  'bn1': 'stem_norm',
  'last': 'last',
  'last_norm': 'last_norm',
  'conv_head': 'hidden',
  'norm_head': 'hidden_norm',
  'classifier': 'head/linear',
} | ROW


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.mobilenet_v4`, with the classifier where the model has one."""
  row = dense(in_one_row(tensors), 'conv_head')
  blocks = [int(m[1]) for name in row if (m := re.match(r'block(\d+)/', name))]
  last = f'block{max(blocks, default=0)}/conv'  # the convolution before the mean is timm's last block
  for name in [name for name in row if name.startswith(last)]:
    row[name.replace(last, 'last')] = row.pop(name)
  return rename(row, MODULES, ignored='' if attributes['num_classes'] else r'classifier\..*')


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json of timm.

  Raises:
    KdjaxError: for another architecture, also one with attention or with blurs.
  """
  match = timm(config_json, ARCHITECTURE, 'mobilenet_v4', CHOICES)
  attributes = {
    'size': match[2] or 'small',
    'width': int(match[3] or 100) / 100,
    'pooled': bool(match[1]),
    'eps': 1e-5,
  }
  return attributes | images.scaling(config_json, folder)
