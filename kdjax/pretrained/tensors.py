"""The tensors of a checkpoint: read, without the wrappers' prefixes, and traced into the variables."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.pretrained import numpy_file, safetensors_io, torch_file

# Of data parallelism, torch.compile, trainers, and timm within transformers.
WRAPPERS = ('module.', '_orig_mod.', 'model.', 'timm_model.')
COUNTS = ('n_averaged',)  # that a wrapper keeps beside the model's names


class Traced(np.ndarray):
  """An array with the name of the tensor that it is, or is a part of, whatever its layout."""

  source = ''

  def __array_finalize__(self, other):
    self.source = getattr(other, 'source', '')


def _file(path: Path) -> dict[str, np.ndarray]:
  if path.suffix == '.safetensors':
    return safetensors_io.read(path)[0]
  return numpy_file.read(path) if path.suffix == '.npz' else torch_file.read(path)


def bare(names: Iterable[str]) -> dict[str, str]:
  """Name -> name without the wrappers' prefixes that all names share."""
  short = {name: name for name in names if name not in COUNTS}
  while short and (prefix := next((w for w in WRAPPERS if all(b.startswith(w) for b in short.values())), '')):
    short = {name: b.removeprefix(prefix) for name, b in short.items()}
  return short


def read(paths: Iterable[Path]) -> dict[str, np.ndarray]:
  """Bare name -> tensor of one model's files.

  Raises:
    KdjaxError: if a file is missing or damaged, or two files have a tensor of one name.
  """
  tensors, origin = {}, {}
  for path in paths:
    for name, x in _file(path).items():
      if name in tensors:
        raise KdjaxError(f'{origin[name]} and {path} both hold {name!r}: keep the shards of one model only.')
      tensors[name], origin[name] = x, path
  return {new: tensors[name] for name, new in bare(tensors).items()}


def traced(tensors: Mapping[str, np.ndarray]) -> dict[str, Traced]:
  """The same arrays, each with its name."""
  arrays = {}
  for name, x in tensors.items():
    arrays[name] = np.asarray(x).view(Traced)
    arrays[name].source = name
  return arrays


def unread(tensors: Mapping[str, Traced], converted: Mapping[str, np.ndarray]) -> list[str]:
  """The names of the tensors that no variable comes from."""
  used = {getattr(x, 'source', '') for x in converted.values()}
  return sorted(tensors.keys() - used)


def summary(names: Iterable[str], most: int = 4) -> str:
  """The names of tensors, those of all layers as one with # for a number; '' for none."""
  kinds = sorted({re.sub(r'\d+', '#', name) for name in names})
  return ', '.join(kinds[:most]) + (f' and {len(kinds) - most} more' if len(kinds) > most else '')


def refuse_not_finite(converted: Mapping[str, np.ndarray], init: str) -> None:
  """Raises KdjaxError for a weight that is NaN or infinite, naming its tensor."""
  bad = [k for k, x in converted.items() if not np.isfinite(np.asarray(x, np.float32)).all()]
  if bad:
    name = getattr(converted[bad[0]], 'source', '') or bad[0]
    more = f' and {len(bad) - 1} other tensors' if len(bad) > 1 else ''
    raise KdjaxError(f'{init} holds NaN or infinity in {name!r}{more}: take a checkpoint of an earlier step.')
