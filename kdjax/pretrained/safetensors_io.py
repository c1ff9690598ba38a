"""Finished models as safetensors files, with a checksum that is compared at every reading."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kdjax.errors import KdjaxError
from kdjax.runtime import files
from kdjax.runtime.array_hash import hash_arrays
from kdjax.runtime.files import first_line, regular_file

HEADER = 'kdjax'  # of an exported model: one key, since the order of several is not the same in every file


def whole(name: str) -> str:
  """The name of a variable in a file, where frozen weights are among the 'params'."""
  return f'params/{name.removeprefix("frozen/")}' if name.startswith('frozen/') else name


def export(path: Path, variables: Mapping, vocabulary: str = '') -> None:
  """Variables as one safetensors file; a name is the path of its leaf, joined by '/', see `whole`.

  Args:
    path: the file.
    variables: the arrays.
    vocabulary: a hash of the tokenizer whose ids the model reads; '' for none.

  Raises:
    KdjaxError: if it cannot be written.
  """
  flat = traverse_util.flatten_dict(jax.device_get(variables), sep='/')
  try:
    with files.swapped_in(path) as part:
      arrays = {whole(k): np.asarray(v, order='C') for k, v in flat.items()}
      metadata = files.sealed({'vocabulary': vocabulary, 'arrays': hash_arrays(arrays)})
      save_file(arrays, part, {HEADER: json.dumps(metadata)})
  except SafetensorError as e:
    raise KdjaxError(f'cannot write the model {path} ({first_line(e)}).') from e


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Name -> array of a safetensors file, and what is written in its header.

  Raises:
    KdjaxError: if it is missing or damaged.
  """
  try:
    with safe_open(regular_file(path, 'model'), 'numpy') as file:
      tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118, it is no dict
      header = file.metadata() or {}
    if HEADER in header:  # an earlier version wrote no checksum
      header = files.unsealed(files.parse(header[HEADER]))
      if header['arrays'] != hash_arrays(tensors):
        raise ValueError('the checksum of its arrays is another')
    return tensors, header
  except (OSError, SafetensorError, TypeError, ValueError, AttributeError, KeyError) as e:  # types, too
    anew = 'delete the stage.json beside it and run the same command, which exports it anew'
    raise KdjaxError(
      f'cannot read the model {path} ({first_line(e)}); if a training of kdjax wrote it, {anew}.'
    ) from e


def fit(stored: Mapping[str, Any], like: Mapping, source: str | Path) -> dict:
  """Flat variables as the tree that `like` is, if they have its names and shapes.

  Which weights are frozen makes no difference: files of earlier versions name them 'frozen/...'.

  Raises:
    KdjaxError: if they have not; it says what `source` lacks, what it has beyond it, and what is of
      another shape.
  """
  flat: dict[str, Any] = traverse_util.flatten_dict(like, sep='/')
  places, wanted = {whole(k): k for k in flat}, {whole(k): v for k, v in flat.items()}
  stored = {whole(k): v for k, v in stored.items()}
  missing, extra = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
  other = [
    f'{k} {list(stored[k].shape)} for {list(wanted[k].shape)}'
    for k in sorted(wanted.keys() & stored.keys())
    if stored[k].shape != wanted[k].shape
  ]
  if missing or extra or other:
    problems = [
      f'{len(names)} {what} ({", ".join(names[:3])}{", …" if len(names) > 3 else ""})'
      for what, names in (('missing', missing), ('extra', extra), ('of another shape', other))
      if names
    ]
    raise KdjaxError(f'{source} is not of this architecture: {"; ".join(problems)}.')
  tree = traverse_util.unflatten_dict({places[k]: v for k, v in stored.items()}, sep='/')
  return {kind: tree.get(kind, {}) for kind in like}  # all weights may be frozen


def load(path: Path, like: Mapping, vocabulary: str = '', without: str = '') -> dict:
  """Variables from a safetensors file.

  Args:
    path: the file.
    like: a tree of the names and shapes that are wanted.
    vocabulary: a hash of the tokenizer in use.
    without: a module whose variables are left out.

  Raises:
    KdjaxError: if the file is missing or damaged, or its architecture or vocabulary is another.
  """
  stored, header = read(path)
  stored = {k: v for k, v in stored.items() if not without or k.split('/')[1] != without}
  variables = fit(stored, like, path)
  of = header.get('vocabulary')
  if of and vocabulary and of != vocabulary:
    raise KdjaxError(f'{path} was trained with another vocabulary: set data.tokenizer to its tokenizer.json.')
  return variables
