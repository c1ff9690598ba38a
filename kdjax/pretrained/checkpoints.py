"""The weights of a user's own module, from a checkpoint: a tree of arrays under the names it was saved by.

Orbax folders, Flax .msgpack, .npz, safetensors, torch files and Keras' .weights.h5; none of them runs code.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from kdjax.errors import KdjaxError
from kdjax.pretrained import tensors
from kdjax.runtime.files import first_line, regular_file, user_path
from kdjax.runtime.packages import needed
from kdjax.runtime.progress import say

KINDS = '.safetensors, .msgpack, .npz, .h5 or a torch file, or a folder that Orbax wrote'
ORBAX = ('_METADATA', 'manifest.ocdbt', '_sharding')
# What a training keeps beside the variables of the model.
TRAINING = ('opt_state', 'step', 'tx', 'rng', 'rngs', 'epoch', 'ema', 'apply_fn', 'loss_scale', 'metadata')
MOST = 64e9  # bytes of a file


def read(path: str | Path, keys: Mapping[str, str] | None = None) -> dict[str, Any]:
  """The variables in a checkpoint, as a dict of collections with 'params'.

  Args:
    path: a file of one of `KINDS`; of several steps in a folder of Orbax the last is taken, and said.
    keys: pattern of a name in the file, parts joined by '/' -> the name of ours, as `re.Match.expand` takes
      it. A tensor that no pattern matches keeps its name. A 'weight' of torch that becomes a 'kernel' is
      transposed.

  Raises:
    KdjaxError: if it cannot be read, or two tensors get one name.
  """
  path = user_path(path)
  flat = {name.replace('.', '/') if '/' not in name else name: x for name, x in _flat(path).items()}
  flat = _renamed(flat, keys or {}, path)
  if not flat:
    raise KdjaxError(f'{path} holds no arrays.')
  tensors.refuse_not_finite(flat, str(path))
  if not any(name.startswith('params/') for name in flat):
    flat = {f'params/{name}': x for name, x in flat.items()}
  return unflatten_dict(flat, sep='/')


def _flat(path) -> dict[str, np.ndarray]:
  """Name -> array of a checkpoint."""
  if path.is_dir():
    return _of_model(_orbax(path))
  if path.suffix == '.msgpack':
    return _of_model(_msgpack(path))
  if path.suffix in ('.h5', '.hdf5', '.keras'):
    return _keras(path)
  if not path.exists():
    raise KdjaxError(f'there is no checkpoint {path}: give {KINDS}.')
  return tensors.read([path])


def _of_model(tree) -> dict[str, np.ndarray]:
  """The arrays of a tree that are no state of an optimizer, by path."""
  if not isinstance(tree, Mapping):
    raise KdjaxError(f'the checkpoint is a {type(tree).__name__}, and no dict of arrays.')
  for key in ('model', 'state', 'variables', 'target'):  # of train states within another dict
    if 'params' not in tree and isinstance(tree.get(key), Mapping):
      tree = tree[key]
  flat = flatten_dict({str(k): _strings(v) for k, v in tree.items() if k not in TRAINING}, sep='/')
  flat = {k: x for k, x in flat.items() if hasattr(x, 'shape') and hasattr(x, 'dtype')}
  flat = {k.removesuffix('/value'): np.asarray(x) for k, x in flat.items()}  # of an NNX state
  return {k: x for k, x in flat.items() if x.dtype.kind in 'biufV' and 'rngs/' not in k}


def _strings(tree):
  if isinstance(tree, Mapping):
    return {str(k): _strings(v) for k, v in tree.items()}
  if isinstance(tree, (list, tuple)):
    return {str(i): _strings(v) for i, v in enumerate(tree)}
  return tree


def _orbax(path) -> Any:
  """The tree of a folder that Orbax wrote."""
  import orbax.checkpoint as ocp

  folder = _item(path)
  logging.getLogger('absl').setLevel(logging.ERROR)
  try:
    checkpointer = ocp.PyTreeCheckpointer()
    tree = cast(Any, checkpointer.metadata(folder.absolute()).item_metadata).tree
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return checkpointer.restore(folder.absolute(), restore_args=arguments)
  except Exception as e:  # Orbax and TensorStore raise a dozen types
    raise KdjaxError(f'cannot read the Orbax checkpoint {folder} ({first_line(e)}).') from e


def _item(path) -> Path:
  """The folder of one tree, within a folder of steps or of several items.

  Raises:
    KdjaxError: if there is none, or there are several.
  """
  if any((path / name).exists() for name in ORBAX):
    return path
  below = sorted(p for p in path.iterdir() if p.is_dir())
  steps = sorted(
    (p for p in below if re.fullmatch(r'(\D*_)?\d+', p.name)),
    key=lambda p: int(re.findall(r'\d+', p.name)[-1]),
  )
  if steps:
    if len(steps) > 1:
      say(f'{path} holds {len(steps)} steps; {steps[-1].name} is taken.')
    return _item(steps[-1])
  items = [p for p in below if any((p / name).exists() for name in ORBAX)]
  if len(items) == 1:
    return items[0]
  named = ', '.join(p.name for p in items[:6])
  what = (
    f'several trees ({named}): give the path of one' if items else f'no checkpoint of Orbax: give {KINDS}'
  )
  raise KdjaxError(f'{path} holds {what}.')


def _msgpack(path) -> Any:
  """The tree of a file of `flax.serialization`."""
  try:
    return serialization.msgpack_restore(regular_file(path, 'checkpoint', MOST).read_bytes())
  except Exception as e:  # msgpack raises a dozen types
    raise KdjaxError(f'cannot read the checkpoint {path} ({first_line(e)}).') from e


def _keras(path) -> dict[str, np.ndarray]:
  """The arrays of a .weights.h5 of Keras 3, by path without 'vars'."""
  h5py: Any = needed('h5py', str(path), 'pip install h5py')
  arrays = {}

  def visit(name, item):
    if isinstance(item, h5py.Dataset) and item.dtype.kind in 'biuf' and not name.startswith('optimizer'):
      arrays[name.replace('/vars/', '/')] = np.asarray(item)

  try:
    with h5py.File(regular_file(path, 'checkpoint', MOST), 'r') as file:
      file.visititems(visit)
  except (OSError, RuntimeError, KeyError) as e:
    raise KdjaxError(f'cannot read the checkpoint {path} ({first_line(e)}).') from e
  return arrays


def _renamed(flat, keys, path) -> dict[str, np.ndarray]:
  """The arrays under our names."""
  renamed, origin, used = {}, {}, set()
  for name, x in flat.items():
    new = name
    for pattern, template in keys.items():
      try:
        match = re.fullmatch(pattern, name)
        if match:
          new = match.expand(template)
      except (re.error, IndexError) as e:
        raise KdjaxError(f'the key {pattern!r} -> {template!r} is no pattern and its template: {e}.') from e
      if match:
        used.add(pattern)
        break
    if new in origin:
      raise KdjaxError(f'{path}: {origin[new]!r} and {name!r} both become {new!r}.')
    if name.endswith('weight') and new.endswith('kernel'):
      x = x.transpose(*range(2, x.ndim), 1, 0) if x.ndim > 1 else x
    renamed[new], origin[new] = x, name
  if unused := [k for k in keys if k not in used]:
    raise KdjaxError(f'no tensor of {path} is called {unused[0]!r}; it has {tensors.summary(flat)}.')
  return renamed
