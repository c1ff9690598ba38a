"""EVA-02 checkpoints in the names of timm, also the image towers of its CLIP, to models.vision.eva02."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.errors import KdjaxError
from kdjax.pretrained import images
from kdjax.pretrained.rename import rename, timm
from kdjax.pretrained.vit_class_token import split

TIMM = {'tiny': (192, 12, 3), 'small': (384, 12, 6), 'base': (768, 12, 12), 'large': (1024, 24, 16)}
ARCHITECTURE = re.compile(rf'eva02_({"|".join(TIMM)})_patch(\d+)_(clip_)?(\d+)(?:\..*)?')
CHOICES = ['eva02_tiny_patch14_336', 'eva02_small_patch14_336', 'eva02_base_patch14_448']
CHOICES += ['eva02_large_patch14_448', 'eva02_base_patch16_clip_224', 'eva02_large_patch14_clip_336']
TIMM_ARGS = ('embed_dim', 'depth', 'num_heads', 'patch_size', 'img_size')
BLOCK = r'blocks\.(\d+)\.'
MODULES = {
  r'patch_embed\.proj': 'patch',
  BLOCK + r'attn\.(query|key|value)': r'block<\1>/attention/\2',
  BLOCK + r'attn\.norm': r'block<\1>/attention/norm',
  BLOCK + r'attn\.proj': r'block<\1>/attention/out',
  BLOCK + r'(norm\d)': r'block<\1>/\2',
  BLOCK + r'mlp\.fc1_g': r'block<\1>/mlp_gate',
  BLOCK + r'mlp\.fc1_x': r'block<\1>/mlp_in',
  BLOCK + r'mlp\.norm': r'block<\1>/mlp_norm',
  BLOCK + r'mlp\.fc2': r'block<\1>/mlp_out',
  'fc_norm|norm': 'norm',
  'head': 'head/linear',
}
WHOLE = {'cls_token': 'params/class', 'pos_embed': 'params/position'}


def _halves(x: np.ndarray, heads: int) -> np.ndarray:
  """The outputs of a layer of queries or keys, those of each head that turn together half a head apart.

  timm has them side by side. Queries and keys in the same order have the same scores.
  """
  if len(x) % (2 * heads):
    return x  # of another shape than the model's
  return x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.vision.eva02`, with the classifier where the model has one."""
  bare = {}
  for name, x in split(tensors).items():
    name = re.sub(r'\.attn\.([qkv])_(proj\.|(?=bias))', r'.attn.\1.', name)
    for letter, word in {'q': 'query', 'k': 'key', 'v': 'value'}.items():
      name = name.replace(f'.attn.{letter}.', f'.attn.{word}.')
    x = _halves(x, attributes['heads']) if re.search(r'\.attn\.(query|key)\.', name) else x
    if '.mlp.fc1.' in name and not len(x) % 2:  # the gate, then what it is multiplied with
      gate, x = np.split(x, 2)
      bare[name.replace('.fc1.', '.fc1_g.')], name = gate, name.replace('.fc1.', '.fc1_x.')
    bare[name] = x
  return rename(bare, MODULES, WHOLE, '' if attributes['num_classes'] else r'head\..*')


def check_head(
  config_json: Mapping[str, Any], tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
  """Checks that the model pools as the checkpoint's classifier does.

  Raises:
    KdjaxError: if it does not.
  """
  match = ARCHITECTURE.fullmatch(str(config_json.get('architecture')))
  pool = 'first' if match and match[3] else 'mean'
  if match and 'head.weight' in tensors and attributes['pool'] != pool:
    raise KdjaxError(
      f"the checkpoint's classifier has the pool {pool!r}, and the model {attributes['pool']!r}: set its "
      f'pool to {pool!r}.'
    )


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json of timm, and the scaling of images.

  Raises:
    KdjaxError: for another architecture.
  """
  name = config_json.get('architecture')
  pool = 'token' if isinstance(name, str) and '_clip_' in name else 'avg'
  match = timm(config_json, ARCHITECTURE, 'eva02', CHOICES, pool, TIMM_ARGS)
  sizes = dict(zip(TIMM_ARGS, (*TIMM[match[1]], int(match[2]), int(match[4])), strict=True))
  sizes |= {k: v for k, v in dict(config_json.get('model_args') or {}).items() if k in sizes}
  for key, value in sizes.items():
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:  # both sides of a square
      sizes[key] = value = value[0]
    options.check(value, options.Size, f'{folder / "config.json"}: {key}')
  attributes = dict(zip(('width', 'depth', 'heads', 'patch', 'image_size'), sizes.values(), strict=True))
  attributes |= {'mlp': int(attributes['width'] * (4 * 2 / 3)), 'mlp_norm': match[1] in ('base', 'large')}
  attributes |= {'attention_norm': bool(match[3]), 'pool': 'first' if match[3] else 'mean', 'eps': 1e-6}
  return attributes | images.scaling(config_json, folder)
