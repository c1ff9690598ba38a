"""The layers that sentence-transformers puts on a model, as its modules.json lists them."""

from pathlib import Path
from typing import Any

from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained.find import MODULES, read_json, transformer

POOLS = {
  'cls': 'first',
  'max': 'max',
  'mean': 'mean',
  'mean_sqrt_len_tokens': 'mean_sqrt_len',
  'weightedmean': 'weighted_mean',
  'lasttoken': 'last',
}
EARLIER = {  # the flags before `pooling_mode`, in the order in which several are joined
  'pooling_mode_cls_token': 'cls',
  'pooling_mode_max_tokens': 'max',
  'pooling_mode_mean_tokens': 'mean',
  'pooling_mode_mean_sqrt_len_tokens': 'mean_sqrt_len_tokens',
  'pooling_mode_weightedmean_tokens': 'weightedmean',
  'pooling_mode_lasttoken': 'lasttoken',
}
ACTIVATIONS = {'Tanh': 'tanh', 'Identity': 'identity', 'ReLU': 'relu', 'GELU': 'gelu', 'SiLU': 'silu'}
KINDS = ('Transformer', 'Pooling', 'Dropout', 'Dense', 'Normalize')  # in the order that they have
EMBEDDING = 'sentence_embedding'


def root(folder: Path) -> Path | None:
  """The folder of the modules.json whose network is in `folder`; None for a model without one."""
  if (folder / MODULES).is_file():
    return folder
  parent = folder.parent
  return parent if (parent / MODULES).is_file() and transformer(parent) == folder.name else None


def modules(folder: Path) -> list[tuple[str, Path]]:
  """Kind and folder of each layer.

  Raises:
    KdjaxError: for a layer that is not known, or in another order than that of `KINDS`.
  """
  transformer(folder)
  path, layers = folder / MODULES, []
  for entry in read_json(path, list):
    kind, subfolder = (entry.get('type'), entry.get('path', '')) if isinstance(entry, dict) else (None, None)
    kind = str(kind).rpartition('.')[2]
    if kind not in KINDS:
      raise unknown(f'module in {path}', kind, KINDS)
    if not isinstance(subfolder, str) or Path(subfolder).name != subfolder:
      raise KdjaxError(f'{path} names the folder {subfolder!r}, which is not beside it.')
    layers.append((kind, folder / subfolder))
  kinds = [kind for kind, _ in layers]
  several = [k for k in ('Transformer', 'Pooling', 'Normalize') if kinds.count(k) > 1]
  if several or sorted(kinds, key=KINDS.index) != kinds or ('Dense' in kinds and 'Pooling' not in kinds):
    raise KdjaxError(f'{path} has {", ".join(kinds)}; the model bert has {", ".join(KINDS)} in this order.')
  return layers


def attributes(folder: Path) -> dict[str, Any]:
  """`pool`, `dense` and `normalise` of `models.text.bert`, {} for a model without a modules.json.

  Raises:
    KdjaxError: as `modules` does, and for a pooling or a layer of an unknown sort.
  """
  top = root(folder)
  if top is None:
    return {}
  layers = modules(top)
  settings: dict[str, Any] = {'normalise': any(kind == 'Normalize' for kind, _ in layers)}
  if dense := tuple(_dense(path / 'config.json') for kind, path in layers if kind == 'Dense'):
    settings['dense'] = dense
  pools = [_pool(path / 'config.json') for kind, path in layers if kind == 'Pooling']
  return settings | ({'pool': pools[0]} if pools else {})


def weights(folder: Path) -> dict[str, Path]:
  """Prefix of its tensors -> file of each dense layer."""
  top = root(folder)
  subfolders = [path for kind, path in modules(top) if kind == 'Dense'] if top else []
  names = ('model.safetensors', 'pytorch_model.bin')
  by_prefix = {}
  for i, subfolder in enumerate(subfolders, 1):
    candidates = [subfolder / name for name in names if (subfolder / name).is_file()]
    if not candidates:
      raise KdjaxError(f'{subfolder} holds no weights: {" or ".join(names)} belongs there.')
    by_prefix[f'dense{i}.'] = candidates[0]
  return by_prefix


def _pool(path):
  settings = read_json(path)
  modes = settings.get('pooling_mode', [mode for key, mode in EARLIER.items() if settings.get(key)] or 'mean')
  modes = [modes] if isinstance(modes, str) else modes
  for mode in modes:
    if mode not in POOLS:
      raise unknown(f'pooling_mode in {path}', str(mode), POOLS)
  pools = tuple(POOLS[mode] for mode in modes)
  return pools[0] if len(pools) == 1 else pools


def _dense(path):
  settings = read_json(path)
  kind = str(settings.get('activation_function', 'Tanh')).rpartition('.')[2]
  if kind not in ACTIVATIONS:
    raise unknown(f'activation_function in {path}', kind, ACTIVATIONS)
  width = settings.get('out_features')
  if not isinstance(width, int) or width < 1:
    raise KdjaxError(f'{path} has out_features {width!r}; it is a number of features.')
  plain = {'module_input_name': EMBEDDING, 'module_output_name': EMBEDDING, 'use_residual': False}
  for key, value in plain.items():
    if settings.get(key, value) not in (value, None):
      raise KdjaxError(f'{path} has {key} {settings[key]!r}; the model bert has {value!r} only.')
  return width, ACTIVATIONS[kind], bool(settings.get('bias', True))
