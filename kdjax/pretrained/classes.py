"""The classes of a published classifier against those of the data: how many, and in which order."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.pretrained.find import Files, companion, read_json
from kdjax.runtime.progress import counted

LAST = re.compile(r'params/head/(?:(?:linear|distillation)/)?(?:kernel|bias)')
UNNAMED = re.compile(r'(label|class) ?\d+')


def names(paths: Files) -> tuple[str, ...]:
  """The class names by index in the files beside a checkpoint, () for none.

  A config.json has them as transformers' `id2label` or timm's `label_names`, kdjax's own stage.json as
  `classes`. LABEL_0 is no name.
  """
  config_json = read_json(paths.config) if paths.config else companion(paths.weights[0].parent, 'stage.json')
  timm = config_json.get('pretrained_cfg')
  timm_names = timm.get('label_names') if isinstance(timm, Mapping) else None
  class_names = config_json.get('label_names') or config_json.get('classes') or timm_names
  labels = config_json.get('id2label')
  if isinstance(labels, Mapping) and set(labels) == {str(i) for i in range(len(labels))}:
    class_names = [labels[str(i)] for i in range(len(labels))]
  if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
    return ()
  keys = [_normalise(name) for name in class_names]
  return () if all(map(UNNAMED.fullmatch, keys)) or len(set(keys)) < len(keys) else tuple(class_names)


def _normalise(name: str) -> str:
  return ' '.join(name.casefold().replace('_', ' ').split())


def order(theirs: Sequence[str], ours: Sequence[str], init: str) -> list[int] | None:
  """The index among `theirs` of each of our classes; None where the order is the same, or no names match.

  Raises:
    KdjaxError: if some names are the same at other indices, and other names differ.
  """
  theirs, normalised = [_normalise(name) for name in theirs], [_normalise(name) for name in ours]
  if len(theirs) != len(normalised) or theirs == normalised:
    return None
  index_of = {name: i for i, name in enumerate(theirs)}
  if set(theirs) == set(normalised):
    return [index_of[name] for name in normalised]
  for i, name in enumerate(normalised):
    if index_of.get(name, i) != i:
      raise KdjaxError(
        f'{init} has the class {ours[i]!r} at {index_of[name]}, and the data set has it at {i}: name the '
        "classes as the checkpoint's files do, all of them or none."
      )
  return None


def reordered(converted: Mapping[str, np.ndarray], permutation: Sequence[int]) -> dict[str, np.ndarray]:
  """Flat variables, with the last layer's outputs in the order of `permutation`."""
  return {k: x[..., np.asarray(permutation)] if LAST.fullmatch(k) else x for k, x in converted.items()}


def count(variables: Mapping[str, Any]) -> int | None:
  """Number of classes of the classifier in flat variables, or their shapes; None for no classifier."""
  return next((x.shape[-1] for k, x in variables.items() if LAST.fullmatch(k) and len(x.shape)), None)


def check(converted: Mapping[str, Any], expected: Mapping[str, Any], init: str) -> None:
  """Checks that a checkpoint has a classifier of as many classes as the model, where that has one.

  Args:
    converted, expected: flat variables of the checkpoint and of the model.
    init: the checkpoint.

  Raises:
    KdjaxError: if it has none, or one of another number of classes.
  """
  theirs, ours = count(converted), count(expected)
  if ours and theirs != ours:
    problem = f'has {counted(theirs, "class")}' if theirs else 'has no classifier'
    raise KdjaxError(
      f'{init} {problem}, and the data set has {ours:,}: to train a new classifier on it, give the model an '
      'init of its own (teacher.model.init) in place of teacher.init.'
    )
