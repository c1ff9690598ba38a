"""A teacher's outputs that were computed elsewhere, in place of its model: `teacher.outputs` of a recipe.

They become keys of the batch, 'teacher/<tap>', which `kdjax/models/multimodal/precomputed.py` reads.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.input import numpy_arrays, parquet, splits
from kdjax.nn.wrappers import call, outputs
from kdjax.pretrained import safetensors_io
from kdjax.runtime import files
from kdjax.runtime.array_hash import hash_arrays
from kdjax.runtime.progress import bar
from kdjax.teacher_store import manifest, record
from kdjax.teacher_store.read import Reader
from kdjax.types import NO_INPUT, readable

PREFIX = 'teacher/'
TIMES = 1000  # bytes that arrays may have for each of a file's
BATCH = 256  # examples that a function is called with at once
Arrays = Mapping[str, np.ndarray]


class Host(NamedTuple):
  """A function `(batch) -> logits or dict` that computes outside JAX: a server, a library, another framework.

  Attributes:
    function: takes a dict of NumPy arrays, or the one input as an array.
  """

  function: Callable


def parse(arrays: Mapping[str, Any], where: str) -> dict[str, dict[str, np.ndarray]]:
  """Split -> tap -> array, of arrays by 'logits', '<tap>', 'id' or '<split>/<tap>'.

  Raises:
    KdjaxError: if there is none, or one is no array of numbers with an axis for the examples.
  """
  by_split: dict[str, dict[str, np.ndarray]] = {}
  for name, value in arrays.items():
    split, _, tap = (
      name.partition('/') if name.split('/')[0] in ('train', 'validation', 'test') else ('', '', name)
    )
    array = np.asarray(value)
    if not array.ndim or array.dtype.kind not in 'iuf' or not np.isfinite(array).all():
      raise KdjaxError(
        f'{where}: {name!r} is {array.dtype} {list(array.shape)}; it takes finite numbers, a row an example.'
      )
    by_split.setdefault(split or 'train', {})[tap or 'logits'] = array
  for split, taps in by_split.items():
    if not taps.keys() - {'id'}:
      raise KdjaxError(f"{where} has no outputs of {split!r}, only 'id': name them 'logits'.")
    rows = {k: len(v) for k, v in taps.items()}
    if len(set(rows.values())) > 1:
      raise KdjaxError(f'{where}: the arrays of {split!r} differ in length: {rows}.')
  if not by_split:
    raise KdjaxError(f'{where} holds no array.')
  return by_split


def read(path: Path) -> dict[str, dict[str, np.ndarray]]:
  """The outputs in a .npy (logits of the training examples), .npz, .safetensors or .parquet file, or a store.

  Raises:
    KdjaxError: if it cannot be read, or as `parse` does.
  """
  if path.is_dir():
    return {'train': _of_store(path)}
  kind = path.suffix.lower()
  if kind == '.safetensors':
    return parse(safetensors_io.read(path)[0], str(path))
  if kind == '.npz':
    return parse(numpy_arrays.read_npz(path, 'file', TIMES), str(path))
  if kind == '.npy':
    return parse({'logits': numpy_arrays.read_npy(path, str(path))}, str(path))
  if kind == '.parquet':
    return parse(_columns(path), str(path))
  raise KdjaxError(
    f'teacher.outputs is {path}; it takes a .npy, .npz, .safetensors or .parquet file, or a store.'
  )


def _of_store(path) -> dict[str, np.ndarray]:
  """The outputs in a teacher store, with their ids."""
  metadata = manifest.load(path)
  if metadata is None or not metadata['complete']:
    raise KdjaxError(f'teacher.outputs is {path}, which holds no finished teacher store; or give a file.')
  reader = Reader(path, metadata)
  if reader.views > 1:
    raise KdjaxError(
      f'{path} holds {reader.views} views of each example: set teacher.source=store and store.folder for it.'
    )
  parts = []
  for rows in _chunks(len(reader.ids)):
    batch = reader.take(reader.ids[rows], np.zeros(len(rows), np.int64))
    taps = record.decode(tuple(tap for tap in reader.taps if tap.rows), batch)
    parts.append({k: np.asarray(x) for k, x in taps.items()})
  return {'id': reader.ids} | {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def _columns(path) -> dict[str, np.ndarray]:
  """The columns of a Parquet file, lists as arrays; rows of other splits by a column 'split'."""
  table = [{k: v for k, v in row.items() if k != '#'} for row in parquet.rows(path)]
  arrays: dict[str, list] = {}
  for row in table:
    split = row.pop('split', None) or 'train'
    for name, value in row.items():
      arrays.setdefault(f'{split}/{name}', []).append(value)
  try:
    return {name: np.asarray(values) for name, values in arrays.items()}
  except ValueError as e:
    raise KdjaxError(f'{path} has rows of different lengths ({files.first_line(e)}).') from e


class Precomputed(NamedTuple):
  """Outputs for the splits of a data set.

  Attributes:
    of: `(split, source, ranges) -> tap -> array`, a row an example of the source; {} where there are none.
      `ranges` are those that the data's floats had.
    fingerprint: of what they are.
  """

  of: Callable[[str, Any, Mapping[str, str]], Arrays]
  fingerprint: str


def load(name: str, folder: Path) -> Precomputed | None:
  """The outputs of `teacher.outputs`: a file, or a Python object that holds arrays or is a `Host`.

  Args:
    name: the value of the key; '' for none.
    folder: where the outputs of a `Host` are kept.
  """
  if not name:
    return None
  value = registry.python_object(name).value if registry.is_object(name) else read(files.user_path(name))
  if isinstance(value, Host):
    return Precomputed(lambda split, source, ranges: _computed(value, split, source, folder, ranges), name)
  mark = name if registry.is_object(name) else files.fingerprint(*(hash_arrays(v) for v in value.values()))
  return Precomputed(lambda split, source, _: _aligned(value.get(split, {}), split, source), mark)


def _aligned(arrays, split, source) -> dict[str, np.ndarray]:
  """The arrays in the order of the examples: by 'id' where they have one, else as they are."""
  if not arrays:
    return {}
  arrays = dict(arrays)
  ids, n = arrays.pop('id', None), len(source)
  if ids is None:
    rows = len(next(iter(arrays.values())))
    if rows != n:
      raise KdjaxError(
        f"the teacher's outputs have {rows:,} rows, and the split {split!r} has {n:,} examples: give a row "
        "an example, in their order, or an array 'id'."
      )
    return arrays
  if ids.ndim != 1 or ids.dtype.kind not in 'iu' or len(np.unique(ids)) != len(ids):
    raise KdjaxError("'id' of the teacher's outputs has to be whole numbers, one an example, each once.")
  order = np.argsort(ids)
  wanted = np.concatenate([source.take(rows)['id'] for rows in _chunks(n)])
  at = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
  for i in np.flatnonzero(ids[order[at]] != wanted)[:1]:
    raise KdjaxError(f"the teacher's outputs lack the example {wanted[i]} of the split {split!r}.")
  return {k: v[order[at]] for k, v in arrays.items()}


def _chunks(n):
  return [np.arange(i, min(i + BATCH, n)) for i in range(0, n, BATCH)]


def _computed(host, split, source, folder, ranges) -> dict[str, np.ndarray]:
  """The outputs of a function for every example, kept in a file of the folder."""
  path = folder / f'{split}.safetensors'
  if path.exists():
    kept = safetensors_io.read(path)[0]
    if all(len(v) == len(source) for v in kept.values()):
      return kept
  chunks = []
  with bar(f"the teacher's outputs of {split}", len(source), 'example') as shown:
    for rows in _chunks(len(source)):
      chunks.append(_call(host.function, source.take(rows), len(rows), ranges))
      shown.update(int(rows[-1]) + 1)
  arrays = {k: np.concatenate([chunk[k] for chunk in chunks]) for k in chunks[0]}
  if not jax.process_index():
    safetensors_io.export(path, arrays)
  return arrays


def _call(function, batch, n, ranges) -> dict[str, np.ndarray]:
  inputs = readable(batch)
  given = {k: v for k, v in batch.items() if k not in NO_INPUT}
  if 'image' in given:
    given['image'] = np.asarray(call.as_given(given['image'], ranges.get('image', '')))
  try:
    returned = function(given[inputs[0]] if len(inputs) == 1 else given)
  except Exception as e:  # whatever a user's function raises
    message = ' '.join(str(e).split())[:240]
    raise KdjaxError(f"the teacher's function raises {type(e).__name__}: {message}") from e
  taps = {k: np.asarray(v) for k, v in outputs.taps(returned).items()}
  for name, x in taps.items():
    if not x.ndim or len(x) != n:
      raise KdjaxError(f"the teacher's function returns {name!r} {list(x.shape)} for {n} examples.")
  return taps


class LazyWithOutputs(splits.LazySplit):
  """A lazy split with the teacher's outputs of its examples."""

  def __init__(self, source: splits.LazySplit, outputs: Arrays):
    super().__init__(source.examples, source.encode)
    self.outputs = outputs

  def take(self, indices) -> dict[str, np.ndarray]:
    return super().take(indices) | {k: v[np.asarray(indices)] for k, v in self.outputs.items()}


def attached(source: Any, arrays: Arrays) -> Any:
  """A split, with the outputs of the teacher as keys 'teacher/<tap>'."""
  keyed = {f'{PREFIX}{k}': np.asarray(v, np.float32) for k, v in arrays.items()}
  if not keyed:
    return source
  if isinstance(source, splits.InMemorySplit):
    return splits.InMemorySplit(source.arrays | keyed)
  return LazyWithOutputs(source, keyed)
