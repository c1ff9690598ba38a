"""Checkpoints of the ResNets for images of 32×32, to models.vision.cifar_resnet and its bottlenecks.

The names are torchvision's, and in the form with bottlenecks `shortcut` and `linear` for `downsample` and
`fc`: those of the public checkpoints of RepDistiller and its successors.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.pretrained import resnet_imagenet
from kdjax.pretrained.rename import rename

MODULES = resnet_imagenet.MODULES | {
  resnet_imagenet.BLOCK + r'shortcut\.0': r'stage\1_block<\2>/shortcut',
  resnet_imagenet.BLOCK + r'shortcut\.1': r'stage\1_block<\2>/shortcut_norm',
  'linear': 'head/linear',
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.cifar_resnet`, with the classifier where the model has one."""
  return rename(tensors, MODULES, ignored='' if attributes['num_classes'] else r'(fc|linear)\..*')
