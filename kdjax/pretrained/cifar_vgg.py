"""Checkpoints of VGG with batch norm in the names of RepDistiller, to models.vision.cifar_vgg."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from kdjax.pretrained.rename import rename

PARTS = ('stem', 'stage1', 'stage2', 'stage3', 'stage4')
# A part is convolution, norm and ReLU, up to four times; each layer has an index.
MODULES = {'classifier': 'head/linear'} | {
  rf'block{i}\.{3 * j + offset}': f'{part}_{kind}{j + 1}'
  for (i, part), j, (offset, kind) in product(enumerate(PARTS), range(4), enumerate(('conv', 'norm')))
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.cifar_vgg`, with the classifier where the model has one."""
  return rename(tensors, MODULES, ignored='' if attributes['num_classes'] else r'classifier\..*')
