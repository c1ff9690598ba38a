"""Published checkpoints as Flax variables, with no torch: safetensors, torch files, .npz, each architecture
through `kdjax/pretrained/<model>.py`, which has `convert` and, where there is a config.json, `config`."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from tokenizers import Tokenizer

from kdjax import audio, catalogue, checkpoint, progress
from kdjax import tokenizer as tokenizers
from kdjax.errors import KdjaxError, unknown
from kdjax.files import user_path
from kdjax.pretrained import classes as classes_
from kdjax.pretrained import images, tensors, texts
from kdjax.pretrained.find import Files, companion, files, read_json
from kdjax.sources import fingerprint

FREE = ('dropout', 'num_classes', 'pool', 'normalise', 'dense')  # attributes that one may want otherwise
SHOWN = ('pool', 'dense', 'normalise', 'mel')  # of what a checkpoint says
PROBLEM = 'single_label_classification'


def architectures() -> list[str]:
  """The models that have a converter."""
  return [name for name in catalogue.names('pretrained') if name in catalogue.names('models')]


def _converter(name: str) -> ModuleType:
  if name not in architectures():
    raise unknown('architecture with a converter', name, architectures())
  return catalogue.module('pretrained', name)


def _said(found: Files, converter: ModuleType, model: Mapping[str, Any]) -> dict[str, Any]:
  """The attributes of the model that its config.json gives, or without one those of its published weights."""
  if found.config is None:
    return converter.unsaid(model) if hasattr(converter, 'unsaid') else {}
  folder = found.config.parent
  return converter.config(read_json(found.config), folder) if hasattr(converter, 'config') else {}


def _exported(found: Files, model: Mapping[str, Any]) -> dict[str, Any]:
  """The attributes that kdjax wrote beside weights of its own, of the same model and those within it."""

  def of_same(theirs, mine):
    if not isinstance(theirs, Mapping) or theirs.get('model') != mine.get('model'):
      return {}
    made = {}
    for key, value in theirs.items():
      if isinstance(value, Mapping):
        inner = of_same(value, mine[key]) if isinstance(mine.get(key), Mapping) else {}
        made |= {key: inner} if inner else {}
      elif key not in ('model', 'init', 'frozen', 'num_classes'):
        made[key] = _tuples(value)
    return made

  return of_same(companion(found.weights[0].parent, 'stage.json').get('model'), model)


def _under(given: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
  """`given`, and what it leaves out as `said` has it; the towers of a model alike."""
  inner = {k: _under(v, said[k]) for k, v in given.items() if isinstance(v, Mapping) and k in said}
  return dict(said) | dict(given) | inner


def complete(init: str, model: Mapping[str, Any]) -> dict[str, Any]:
  """The config of a model, the attributes that it leaves out taken from the checkpoint's config.json.

  Args:
    init: as in `load`.
    model: 'model' and attributes.

  Raises:
    KdjaxError: if there is no such checkpoint, or it is of another kind of model.
  """
  found, name = files(init), model['model']
  said = _exported(found, model)
  if name in architectures():
    said |= _said(found, _converter(name), model)
  return _under(model, said)


def _attributes(model: Mapping[str, Any]) -> dict[str, Any]:
  """All attributes of a config, with the defaults of the module and of those within it."""
  given = {k: _attributes(v) if isinstance(v, Mapping) and 'model' in v else v for k, v in model.items()}
  return catalogue.options('models', model['model']) | given


def _check(attributes: Mapping[str, Any], said: Mapping[str, Any], init: str, prefix: str = '') -> None:
  """Raises KdjaxError for an attribute that no shape would give away."""
  for key, value in said.items():
    mine = attributes.get(key, inspect.Parameter.empty)
    if key == 'mel' and mine is not inspect.Parameter.empty:
      mine, value = audio.settings(mine), audio.settings(value)
      if mine._replace(length=0) != value._replace(length=0):
        raise KdjaxError(f'{init} has {prefix}mel {value}, and the model {mine}: leave its {prefix}mel out.')
    elif isinstance(value, Mapping) and isinstance(mine, Mapping):
      _check(mine, value, init, f'{prefix}{key}.')
    elif key not in FREE and mine is not inspect.Parameter.empty and _tuples(mine) != _tuples(value):
      raise KdjaxError(
        f'{init} has {prefix}{key} {value!r}, and the model {mine!r}: set its {prefix}{key} to {value!r}.'
      )


def _tuples(value: Any) -> Any:
  """Lists as tuples: JSON has no others."""
  return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _check_head(found: Files, converter: ModuleType, named: Mapping, attributes: Mapping[str, Any]) -> None:
  """Raises KdjaxError for a classifier that is of another kind than the model's."""
  given = read_json(found.config) if found.config else {}
  kind = given.get('problem_type') or PROBLEM
  if attributes.get('num_classes') and kind != PROBLEM:
    raise KdjaxError(f'{found.config} has problem_type {kind!r}; a classifier here is of {PROBLEM!r}.')
  if attributes.get('num_classes') and hasattr(converter, 'check_head'):
    converter.check_head(given, named, attributes)


def tokenizer(init: str) -> Path:
  """The tokenizer.json of a checkpoint, for `data.tokenizer`.

  Args:
    init: as in `load`; a tokenizer.json itself is given back.

  Raises:
    KdjaxError: if it has none.
  """
  if init.endswith('.json'):
    return user_path(init)
  found = files(init)
  if found.tokenizer is None:
    raise KdjaxError(f'{init} has no tokenizer.json beside {found.weights[0].name}.')
  return found.tokenizer


def _told(found: Files, said: Mapping[str, Any], unread: list[str], more: Sequence[str]) -> str:
  """What was read, how the checkpoint reads inputs and is read off, and what has no place in the model."""
  own = {k: v for part in (said, *said.values()) if isinstance(part, Mapping) for k, v in part.items()}
  shown = [f'{k} {own[k]}' for k in SHOWN if k in own] + [texts.describe(found), *more]
  files = (
    found.weights[0]
    if len(found.weights) == 1
    else f'{len(found.weights)} files of {found.weights[0].parent}'
  )
  left = f'; left out, as the model has no such layer: {tensors.summary(unread)}' if unread else ''
  return f'weights from {files}{left}' + ''.join(f'; {line}' for line in shown if line)


def words(init: str) -> Tokenizer:
  """The tokenizer of a checkpoint or file, with its padding and case, for `data.tokenizer`.

  Raises:
    KdjaxError: if it has none, or it cannot be read.
  """
  return texts.load(tokenizer(init))


def load(
  init: str,
  model: Mapping[str, Any],
  like: Mapping,
  vocabulary: str = '',
  without: str = '',
  classes: Sequence[str] = (),
) -> dict:
  """Variables of a published checkpoint, or of a file that kdjax exported, in float32.

  Args:
    init: a file or folder, `pip:NAME` for the files of an installed package (none of its code is
      run), or `hf:org/name`, with `@revision` where one is wanted.
    model: the config of the model, 'model' and attributes.
    like: a tree of the names and shapes that the model wants.
    vocabulary: a hash of the tokenizer in use, '' for none.
    without: a module that a file of kdjax may have and `like` has not.
    classes: the names of the data's classes; where the checkpoint's files give the same names in another
      order, the classifier's outputs are put into this one.

  Raises:
    KdjaxError: if the checkpoint cannot be found or read, is of another architecture (it says which
      tensors are missing, extra or of another shape, or which attribute differs), has another number of
      classes, or comes with another vocabulary.
  """
  found, wanted = files(init), flatten_dict(like, sep='/')
  named = tensors.traced(tensors.read(found.weights))
  places = classes_.order(classes_.names(found), classes, init) if classes else None
  if any(checkpoint.whole(name).startswith('params/') for name in named):
    classes_.check({checkpoint.whole(k): x for k, x in named.items()}, wanted, init)
    variables = checkpoint.load(found.weights[0], like, vocabulary, without)
    flat = flatten_dict(variables, sep='/')
    tensors.refuse_not_finite(flat, init)
    return unflatten_dict(classes_.reordered(flat, places), sep='/') if places else variables
  converter, attributes = _converter(model['model']), _attributes(model)
  if hasattr(converter, 'beside'):
    for prefix, path in converter.beside(found.weights[0].parent).items():
      named |= tensors.traced({prefix + name: x for name, x in tensors.read([path]).items()})
  said = _said(found, converter, model)
  _check(attributes, said, init)
  parts = (attributes, *(v for v in attributes.values() if isinstance(v, Mapping)))
  if vocabulary and found.tokenizer and any('vocab_size' in part for part in parts):
    words = tokenizers.load(found.tokenizer).get_vocab()
    if fingerprint(sorted(words.items())) != vocabulary:
      raise KdjaxError(
        f'{init} was trained with another vocabulary: set data.tokenizer to {found.tokenizer}.'
      )
  if 'num_classes' in attributes:  # those that the data gave the model, where the config leaves them out
    attributes['num_classes'] = classes_.count(wanted)
  _check_head(found, converter, named, attributes)
  converted = converter.convert(named, attributes)
  classes_.check(converted, wanted, init)
  images.check_side(converted, wanted, attributes, init)
  converted = classes_.reordered(converted, places) if places else converted
  variables = checkpoint.fit(converted, like, init)
  tensors.refuse_not_finite(converted, init)
  reordered = 'its classes in the order of the data, by their names' if places else ''
  read_as = [images.describe(found, attributes), reordered]
  progress.say(_told(found, said, tensors.unread(named, converted), read_as))
  return jax.tree.map(lambda x: np.asarray(x, np.float32), variables)
