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
EARLIER = {  # switches of before `pooling_mode`, in the order in which several are joined
  'pooling_mode_cls_token': 'cls',
  'pooling_mode_max_tokens': 'max',
  'pooling_mode_mean_tokens': 'mean',
  'pooling_mode_mean_sqrt_len_tokens': 'mean_sqrt_len_tokens',
  'pooling_mode_weightedmean_tokens': 'weightedmean',
  'pooling_mode_lasttoken': 'lasttoken',
}
ACTIVATIONS = {'Tanh': 'tanh', 'Identity': 'identity', 'ReLU': 'relu', 'GELU': 'gelu', 'SiLU': 'silu'}
KINDS = ('Transformer', 'Pooling', 'Dropout', 'Dense', 'Normalize')  # in the order in which they may stand
EMBEDDING = 'sentence_embedding'


def root(folder: Path) -> Path | None:
  """The folder of the modules.json of which `folder` holds the network; None for a model without any."""
  if (folder / MODULES).is_file():
    return folder
  above = folder.parent
  return above if (above / MODULES).is_file() and transformer(above) == folder.name else None


def modules(folder: Path) -> list[tuple[str, Path]]:
  """Kind and folder of each layer.

  Raises:
    KdjaxError: for a layer that is not known, or in another order than that of `KINDS`.
  """
  transformer(folder)
  path, found = folder / MODULES, []
  for entry in read_json(path, list):
    kind, where = (entry.get('type'), entry.get('path', '')) if isinstance(entry, dict) else (None, None)
    kind = str(kind).rpartition('.')[2]
    if kind not in KINDS:
      raise unknown(f'module in {path}', kind, KINDS)
    if not isinstance(where, str) or Path(where).name != where:
      raise KdjaxError(f'{path} names the folder {where!r}, which is not beside it.')
    found.append((kind, folder / where))
  kinds = [kind for kind, _ in found]
  several = [k for k in ('Transformer', 'Pooling', 'Normalize') if kinds.count(k) > 1]
  if several or sorted(kinds, key=KINDS.index) != kinds or ('Dense' in kinds and 'Pooling' not in kinds):
    raise KdjaxError(f'{path} has {", ".join(kinds)}; the model bert knows {", ".join(KINDS)} in this order.')
  return found


def attributes(folder: Path) -> dict[str, Any]:
  """`pool`, `dense` and `normalise` of `models.text.bert`, {} for a model without a modules.json.

  Raises:
    KdjaxError: as `modules` does, and for a pooling or a layer of an unknown sort.
  """
  above = root(folder)
  if above is None:
    return {}
  listed = modules(above)
  found = {'normalise': any(kind == 'Normalize' for kind, _ in listed)}
  if dense := tuple(_dense(path / 'config.json') for kind, path in listed if kind == 'Dense'):
    found['dense'] = dense
  pools = [_pool(path / 'config.json') for kind, path in listed if kind == 'Pooling']
  return found | ({'pool': pools[0]} if pools else {})


def weights(folder: Path) -> dict[str, Path]:
  """Prefix of its tensors -> file of each dense layer."""
  above = root(folder)
  places = [path for kind, path in modules(above) if kind == 'Dense'] if above else []
  names = ('model.safetensors', 'pytorch_model.bin')
  found = {}
  for i, place in enumerate(places, 1):
    files = [place / name for name in names if (place / name).is_file()]
    if not files:
      raise KdjaxError(f'{place} holds no weights: {" or ".join(names)} belongs there.')
    found[f'dense{i}.'] = files[0]
  return found


def _pool(path):
  given = read_json(path)
  modes = given.get('pooling_mode', [mode for key, mode in EARLIER.items() if given.get(key)] or 'mean')
  modes = [modes] if isinstance(modes, str) else modes
  for mode in modes:
    if mode not in POOLS:
      raise unknown(f'pooling_mode in {path}', str(mode), POOLS)
  pools = tuple(POOLS[mode] for mode in modes)
  return pools[0] if len(pools) == 1 else pools


def _dense(path):
  given = read_json(path)
  kind = str(given.get('activation_function', 'Tanh')).rpartition('.')[2]
  if kind not in ACTIVATIONS:
    raise unknown(f'activation_function in {path}', kind, ACTIVATIONS)
  width = given.get('out_features')
  if not isinstance(width, int) or width < 1:
    raise KdjaxError(f'{path} has out_features {width!r}; it is a number of features.')
  plain = {'module_input_name': EMBEDDING, 'module_output_name': EMBEDDING, 'use_residual': False}
  for key, value in plain.items():
    if given.get(key, value) not in (value, None):
      raise KdjaxError(f'{path} has {key} {given[key]!r}; the model bert knows {value!r} alone.')
  return width, ACTIVATIONS[kind], bool(given.get('bias', True))
