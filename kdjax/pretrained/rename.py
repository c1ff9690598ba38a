"""From the names and layouts of torch to those of Flax."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained.hf_config import OtherKind

COUNTED = re.compile(r'<(\d+)>')
LEAVES = {
  'bias': 'params/{}/bias',
  'running_mean': 'batch_stats/{}/mean',
  'running_var': 'batch_stats/{}/var',
}
# Of timm's `model_args`: those that the weights show, and those that change nothing.
SHOWN = ('num_classes', 'img_size', 'dynamic_img_size', 'strict_img_size')
PLAIN = {'in_chans': 3, 'no_embed_class': False, 'class_token': True, 'qkv_bias': True, 'pretrained': False}
ALIASES = {'gamma': 'weight', 'beta': 'bias'}  # of the layer norms of early checkpoints


def timm(
  config_json: Mapping[str, Any],
  pattern: re.Pattern,
  model: str,
  choices: Sequence[str],
  pool: str = 'avg',
  known: Sequence[str] = (),
) -> re.Match:
  """The match of the architecture that a config.json of timm names.

  Args:
    config_json: of the checkpoint.
    pattern: of the names of `model`'s architectures.
    model: ours.
    choices: names for the error message.
    pool: the `global_pool` that it has.
    known: further `model_args` that the converter reads, or the shapes of the weights show.

  Raises:
    OtherKind: for another architecture, it names the `choices`.
    KdjaxError: for one that was changed.
  """
  name = config_json.get('architecture') or config_json.get('model_type', '')
  match = pattern.fullmatch(name) if isinstance(name, str) else None
  if match is None:
    raise OtherKind(unknown(f'architecture for the model {model}', str(name), choices))
  model_args, global_pool = config_json.get('model_args') or {}, config_json.get('global_pool')
  if not isinstance(model_args, Mapping):
    raise KdjaxError(f'config.json has model_args {model_args!r}; it has to be an object.')
  model_args = ({'global_pool': global_pool} if global_pool else {}) | dict(model_args)
  if not config_json.get('num_classes', 1):
    model_args.pop('global_pool', None)  # there is no classifier that reads it
  for key, value in model_args.items():
    unchanged = key in PLAIN and value == PLAIN[key] or key == 'global_pool' and value == pool
    if not unchanged and key not in (*SHOWN, *known) and not key.endswith('_rate'):
      raise KdjaxError(f'config.json has {key} {value!r} for {name}: the model {model} does not support it.')
  return match


def _path(match: re.Match, template: str) -> str:
  """The template with its groups filled in, and a number in <> counted from one."""
  return COUNTED.sub(lambda m: str(int(m[1]) + 1), match.expand(template))


def _leaf(module: str, kind: str, x: np.ndarray) -> tuple[str, np.ndarray] | None:
  """The full name and the layout of a module's tensor: a convolution is HWIO, a dense layer [in, out]."""
  if kind in LEAVES:
    return LEAVES[kind].format(module), x
  if kind != 'weight':
    return None
  if x.ndim == 1:
    return f'params/{module}/scale', x
  return f'params/{module}/kernel', x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.swapaxes(-1, -2)


def within(tensors: Mapping[str, np.ndarray], prefix: str, path: str, convert: Callable) -> dict[str, Any]:
  """What `convert` makes of the tensors of one part of a model, below `path` of each collection.

  Args:
    tensors: of the whole model.
    prefix: of the part's names; a tensor that `convert` leaves as it is gets it back.
    path: of the part among the variables.
    convert: tensors -> flat variables.
  """
  part = convert({k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)})
  moved = {k: re.sub(r'^(params|batch_stats|buffers)/', rf'\1/{path}/', k) for k in part}
  return {new if new != k else prefix + k: part[k] for k, new in moved.items()}


def rename(
  tensors: Mapping[str, np.ndarray],
  modules: Mapping[str, str],
  whole: Mapping[str, str] | None = None,
  ignored: str = '',
) -> dict[str, np.ndarray]:
  """Flat variables, paths joined by '/'; a tensor that no rule matches keeps its name, and is extra later.

  Args:
    tensors: as they were saved.
    modules: pattern of a module's name -> the path of ours, as `re.Match.expand` takes it, a group in
      <> raised by one.
    whole: pattern of a tensor's full name -> the full name of ours, taken as it is.
    ignored: pattern of the names that carry nothing the model uses.

  Raises:
    KdjaxError: if two tensors get the same name.
  """
  variables, origin = {}, {}
  for name, x in tensors.items():
    if re.fullmatch(ignored, name) or name.endswith('num_batches_tracked'):
      continue
    module, _, kind = name.rpartition('.')
    exact = (_path(m, new) for old, new in (whole or {}).items() if (m := re.fullmatch(old, name)))
    paths = (_path(m, new) for old, new in modules.items() if (m := re.fullmatch(old, module)))
    if (full := next(exact, None)) is not None:
      entry = full, x
    elif (path := next(paths, None)) is not None and (leaf := _leaf(path, ALIASES.get(kind, kind), x)):
      entry = leaf
    else:
      entry = name, x
    if entry[0] in variables:
      raise KdjaxError(f'the checkpoint has {origin[entry[0]]!r} and {name!r}, two tensors for one layer.')
    variables[entry[0]], origin[entry[0]] = entry[1], name
  return variables
