"""BiT checkpoints to models.vision.bit_resnet: the authors' .npz files, big_vision's, and timm's names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.pretrained import images
from kdjax.pretrained.rename import rename, timm

ARCHITECTURE = re.compile(r'resnetv2_(50|101|152)x(\d)_bit(\..*)?')
TIMM = {
  r'stem\.conv': 'stem',
  r'stages\.(\d)\.blocks\.(\d+)\.(conv\d|norm\d)': r'stage<\1>_block<\2>/\3',
  r'stages\.(\d)\.blocks\.(\d+)\.downsample\.conv': r'stage<\1>_block<\2>/shortcut',
  'norm': 'norm',
  r'head\.fc': 'head',
}
LEAVES = {'gamma': 'scale', 'beta': 'bias'}  # TensorFlow's names
UNIT = re.compile(r'block(\d)/unit(\d+)/(.+)')
PARTS = {'conv_proj': 'shortcut', 'a/proj/conv': 'shortcut'}
PARTS |= {f'conv{i}': f'conv{i}' for i in (1, 2, 3)} | {f'gn{i}': f'norm{i}' for i in (1, 2, 3)}
PARTS |= {f'{letter}/conv': f'conv{i}' for i, letter in enumerate('abc', 1)}
PARTS |= {f'{letter}/group_norm': f'norm{i}' for i, letter in enumerate('abc', 1)}
OUTER = {'root_block/conv': 'stem', 'root_block/conv_root': 'stem', 'group_norm': 'norm'}
OUTER |= {'norm-pre-head': 'norm', 'head/conv2d': 'head', 'head': 'head'}


def plain(name: str) -> str | None:
  """Our name of a variable of the authors' TensorFlow or of big_vision, None where it has none."""
  name = re.sub(r'standardized_conv2d(_\d+)?', 'conv', name.removeprefix('resnet/'))
  module, _, leaf = name.rpartition('/')
  leaf = LEAVES.get(leaf, leaf)
  path = OUTER.get(module)
  if (unit := UNIT.fullmatch(module)) and unit[3] in PARTS:
    path = f'stage{unit[1]}_block{int(unit[2])}/{PARTS[unit[3]]}'
  return path and f'params/{path}/{leaf}'


def squeezed(name: str, x: np.ndarray) -> np.ndarray:
  """Scales and biases [1, 1, 1, C] as [C], and a head that was a 1×1 convolution as [D, C]."""
  if name.endswith(('scale', 'bias')) and x.shape[:-1] == (1, 1, 1):
    return x[0, 0, 0]
  return x[0, 0] if name == 'params/head/kernel' and x.shape[:-2] == (1, 1) else x


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.bit_resnet`, with the classifier where the model has one."""
  if any(name.startswith('stem.') for name in tensors):
    variables = rename(tensors, TIMM)
  else:
    variables = {plain(name) or name: x for name, x in tensors.items()}
  variables = {name: squeezed(name, x) for name, x in variables.items()}
  return {k: x for k, x in variables.items() if attributes['num_classes'] or not k.startswith('params/head/')}


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json of timm.

  Raises:
    KdjaxError: for another architecture.
  """
  choices = [f'resnetv2_{size}_bit' for size in ('50x1', '50x3', '101x1', '101x3', '152x2', '152x4')]
  match = timm(config_json, ARCHITECTURE, 'bit_resnet', choices)
  return {'depth': int(match[1]), 'width': int(match[2]), 'eps': 1e-8} | images.scaling(config_json, folder)
