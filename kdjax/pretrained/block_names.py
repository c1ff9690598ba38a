"""The blocks of mobile networks in the names of timm and torchvision, as one row of blocks."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from kdjax.errors import KdjaxError

TIMM = re.compile(r'blocks\.(\d{1,4})\.(\d{1,4})\.(.+)')
TORCHVISION = re.compile(r'features\.(\d{1,4})\.(?:(\d{1,4})\.)?block\.(\d{1,4}\..+)')
ROW = {r'(block\d+/.+)': r'\1'}  # for `rename`, after `in_one_row`
INVERTED = {'conv_pw': 'expand', 'conv_dw': 'depthwise', 'conv_pwl': 'project'}
PARTS = {  # a module that only one kind of block has -> the block's convolutions, in the order of its norms
  'conv_exp': {'conv_exp': 'expand', 'conv_pwl': 'project'},
  'conv_pwl': INVERTED,
  'bn3': INVERTED,
  'conv_dw': {'conv_dw': 'depthwise', 'conv_pw': 'project'},
  'conv': {'conv': 'conv'},
}
OTHERS = {  # those that have a name of their own in every block
  'se.conv_reduce': 'squeeze/reduce',
  'se.conv_expand': 'squeeze/expand',
  'dw_start.conv': 'start',
  'dw_start.bn': 'start_norm',
  'pw_exp.conv': 'expand',
  'pw_exp.bn': 'expand_norm',
  'dw_mid.conv': 'depthwise',
  'dw_mid.bn': 'depthwise_norm',
  'pw_proj.conv': 'project',
  'pw_proj.bn': 'project_norm',
}


def _timm(modules: Iterable[str]) -> dict[str, str]:
  """Their module -> ours, of a block."""
  parts = next((parts for kind, parts in PARTS.items() if kind in modules), {})
  norms = {f'bn{i}': f'{part}_norm' for i, part in enumerate(parts.values(), 1)}
  return OTHERS | parts | norms


def _torchvision(modules: Iterable[str]) -> dict[str, str]:
  """The same of torchvision, which numbers the modules that a block has."""
  numbers = sorted({int(m.split('.')[0]) for m in modules if m.endswith(('.0', '.1'))})
  names = {}
  for number, part in zip(numbers, ('expand', 'depthwise', 'project')[-len(numbers) :], strict=False):
    names |= {f'{number}.0': part, f'{number}.1': f'{part}_norm'}
  squeeze = {m: f'squeeze/{"reduce" if m.endswith("1") else "expand"}' for m in modules if '.fc' in m}
  return names | squeeze


def in_one_row(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The tensors, with those of blocks as 'block1/expand.weight' and so on.

  The others keep their names, and so does a second one for the same layer.
  """
  blocks: dict[tuple[int, int], dict[str, tuple[str, str]]] = {}
  renamed = {}
  for name, x in tensors.items():
    if match := TIMM.fullmatch(name) or TORCHVISION.fullmatch(name):
      module, _, leaf = match[3].rpartition('.')
      blocks.setdefault((int(match[1]), int(match[2] or 0)), {})[name] = module, leaf
    else:
      renamed[name] = x
  for i, place in enumerate(sorted(blocks), 1):
    known = _timm if 'blocks.' in next(iter(blocks[place])) else _torchvision
    ours = known({module for module, _ in blocks[place].values()})
    for name, (module, leaf) in blocks[place].items():
      x = tensors[name]
      x = x[..., 0, 0] if x.ndim == 4 and ours.get(module, '').startswith('squeeze') else x
      new = f'block{i}/{ours[module]}.{leaf}' if module in ours else name
      renamed[name if new in renamed else new] = x
  return renamed


def dense(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
  """The tensors, with the 1×1 convolution `name`, which timm has after a mean, as a dense layer."""
  key = f'{name}.weight'
  return {k: x[..., 0, 0] if k == key and x.shape[2:] == (1, 1) else x for k, x in tensors.items()}


def of_torchvision(tensors: Iterable[str]) -> bool:
  """Whether the names are those of torchvision."""
  return any(name.startswith('features.') for name in tensors)


def check_norms(attributes: Mapping, torch: bool, eps: float, source: str) -> None:
  """Checks that a model pads and normalises as the weights were trained, which no shape gives away.

  Args:
    attributes: of the model, with `torch` and `eps`.
    torch: whether they were trained with torch's padding.
    eps: of their batch norms.
    source: whose names the tensors have.

  Raises:
    KdjaxError: if it does not.
  """
  for key, value in {'torch': torch, 'eps': eps}.items():
    if attributes[key] != value:
      raise KdjaxError(
        f'the tensors have the names of {source}, whose {key} is {value!r}, and the model has '
        f'{attributes[key]!r}: set its {key} to {value!r}.'
      )
