"""The data that a program gives, as the part of a recipe that names them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdjax import registry
from kdjax.api.models import Checkpoint
from kdjax.errors import KdjaxError
from kdjax.input.array_data import arrays_dataset
from kdjax.runtime.files import fingerprint
from kdjax.types import DataSet


def keys(
  train: Any, test: Any = None, validation: Any = None, classes: Sequence[str] = (), label: Any = 'class'
) -> dict[str, Any]:
  """The keys of `config.data` for the arguments of `distill`.

  Args:
    train, test, validation, classes: as in `distill`.
    label: what the task reads, `Task.label`.

  Raises:
    KdjaxError: for what is no data.
  """
  if train is None:
    raise KdjaxError('distill needs train: arrays, a source of examples, a path or the name of a data set.')
  if isinstance(train, (str, os.PathLike)):
    if test is not None or validation is not None:
      raise KdjaxError(
        f'train is {str(train)!r}, which has its own splits: leave test and validation out, or give arrays.'
      )
    is_path = isinstance(train, os.PathLike) or os.path.exists(os.path.expanduser(train)) or '/' in train
    return {'path': str(Path(train).expanduser().absolute())} if is_path else {'name': train}
  dataset = train
  if not isinstance(train, DataSet):
    dataset = arrays_dataset(train, test, validation, classes or None, label=label)
  return {'name': registry.add_object('data', fingerprint(dataset.fingerprint)[:8], dataset)}


def tokenizer(*models: Any) -> str:
  """The tokenizer of the first model that brings one, '' for none."""
  return next((m.tokenizer for m in models if isinstance(m, Checkpoint) and m.tokenizer), '')
