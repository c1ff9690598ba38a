"""The classes of a published classifier against those of the data: how many, and in which order."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.pretrained.find import Files, companion, read_json

LAST = re.compile(r'params/head/(?:(?:linear|distillation)/)?(?:kernel|bias)')
UNNAMED = re.compile(r'(label|class) ?\d+')


def names(found: Files) -> tuple[str, ...]:
  """The names by index that the files beside a checkpoint give to its classes, () for none.

  A config.json has them as transformers' `id2label` or timm's `label_names`, kdjax's own stage.json as
  `classes`. LABEL_0 is no name.
  """
  given = read_json(found.config) if found.config else companion(found.weights[0].parent, 'stage.json')
  timm = given.get('pretrained_cfg')
  inner = timm.get('label_names') if isinstance(timm, Mapping) else None
  listed = given.get('label_names') or given.get('classes') or inner
  labels = given.get('id2label')
  if isinstance(labels, Mapping) and set(labels) == {str(i) for i in range(len(labels))}:
    listed = [labels[str(i)] for i in range(len(labels))]
  if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
    return ()
  same = [_same(name) for name in listed]
  return () if all(map(UNNAMED.fullmatch, same)) or len(set(same)) < len(same) else tuple(listed)


def _same(name: str) -> str:
  return ' '.join(name.casefold().replace('_', ' ').split())


def order(theirs: Sequence[str], ours: Sequence[str], init: str) -> list[int] | None:
  """Where each of our classes is among theirs; None where that is its own place, or names say nothing.

  Raises:
    KdjaxError: if some classes have the same names in other places, and others have other names.
  """
  theirs, named = [_same(name) for name in theirs], [_same(name) for name in ours]
  if len(theirs) != len(named) or theirs == named:
    return None
  places = {name: i for i, name in enumerate(theirs)}
  if set(theirs) == set(named):
    return [places[name] for name in named]
  for i, name in enumerate(named):
    if places.get(name, i) != i:
      raise KdjaxError(
        f'{init} has the class {ours[i]!r} at {places[name]}, and the data set has it at {i}: name the '
        "classes as the checkpoint's files do, all of them or none."
      )
  return None


def reordered(converted: Mapping[str, np.ndarray], places: Sequence[int]) -> dict[str, np.ndarray]:
  """Flat variables, the last layer's outputs taken at `places`."""
  return {k: x[..., np.asarray(places)] if LAST.fullmatch(k) else x for k, x in converted.items()}


def count(variables: Mapping[str, Any]) -> int | None:
  """Of the classifier in flat variables, or their shapes; None where there is none."""
  return next((x.shape[-1] for k, x in variables.items() if LAST.fullmatch(k) and len(x.shape)), None)


def check(converted: Mapping[str, Any], like: Mapping[str, Any], init: str) -> None:
  """That a checkpoint has a classifier where one is wanted, of as many classes.

  Args:
    converted, like: flat variables, as the checkpoint has them and as they are wanted.
    init: the checkpoint.

  Raises:
    KdjaxError: if it has none, or one of another number of classes.
  """
  theirs, ours = count(converted), count(like)
  if ours and theirs != ours:
    has = f'tells {theirs:,} classes apart' if theirs else 'has no classifier'
    raise KdjaxError(
      f'{init} {has}, and the data set has {ours:,}: to train a new classifier on it, give the model an init '
      'of its own (teacher.model.init) in place of teacher.init.'
    )
