"""Published checkpoints as Flax variables, with no torch: safetensors, torch files, .npz, each architecture
through `kdjax/pretrained/<model>.py`, which has `convert` and, where there is a config.json, `config`."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from kdjax import catalogue, checkpoint, progress
from kdjax import tokenizer as tokenizers
from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained import tensors
from kdjax.pretrained.find import Files, files, read_json
from kdjax.sources import fingerprint

FREE = ('dropout', 'num_classes', 'pool', 'normalise')  # attributes that one may want otherwise


def architectures() -> list[str]:
  """The models that have a converter."""
  return [name for name in catalogue.names('pretrained') if name in catalogue.names('models')]


def _converter(name: str) -> ModuleType:
  if name not in architectures():
    raise unknown('architecture with a converter', name, architectures())
  return catalogue.module('pretrained', name)


def _said(found: Files, converter: ModuleType) -> dict[str, Any]:
  """The attributes of the model that its config.json gives."""
  if found.config is None or not hasattr(converter, 'config'):
    return {}
  return converter.config(read_json(found.config), found.config.parent)


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
  found = files(init)
  if found.config is None or model['model'] not in architectures():
    return dict(model)
  return _under(model, _said(found, _converter(model['model'])))


def _attributes(model: Mapping[str, Any]) -> dict[str, Any]:
  """All attributes of a config, with the defaults of the module and of those within it."""
  given = {k: _attributes(v) if isinstance(v, Mapping) and 'model' in v else v for k, v in model.items()}
  return catalogue.options('models', model['model']) | given


def _check(attributes: Mapping[str, Any], said: Mapping[str, Any], init: str, prefix: str = '') -> None:
  """Raises KdjaxError for an attribute that no shape would give away."""
  for key, value in said.items():
    mine = attributes.get(key, inspect.Parameter.empty)
    if isinstance(value, Mapping) and isinstance(mine, Mapping):
      _check(mine, value, init, f'{prefix}{key}.')
    elif key not in FREE and mine is not inspect.Parameter.empty:
      mine = tuple(mine) if isinstance(mine, list) else mine
      if mine != value:
        raise KdjaxError(
          f'{init} has {prefix}{key} {value!r}, and the model {mine!r}: set its {prefix}{key} to {value!r}.'
        )


def tokenizer(init: str) -> Path:
  """The tokenizer.json of a checkpoint, for `data.tokenizer`.

  Args:
    init: as in `load`; a tokenizer.json itself is given back.

  Raises:
    KdjaxError: if it has none.
  """
  if init.endswith('.json'):
    return Path(init).expanduser()
  found = files(init)
  if found.tokenizer is None:
    raise KdjaxError(f'{init} has no tokenizer.json beside {found.weights[0].name}.')
  return found.tokenizer


def _told(found: Files, unread: list[str]) -> str:
  """What was read, and what of it has no place in the model."""
  files = (
    found.weights[0]
    if len(found.weights) == 1
    else f'{len(found.weights)} files of {found.weights[0].parent}'
  )
  left = f'; left out, as the model has no such layer: {tensors.summary(unread)}' if unread else ''
  return f'weights from {files}{left}'


def load(init: str, model: Mapping[str, Any], like: Mapping, vocabulary: str = '', without: str = '') -> dict:
  """Variables of a published checkpoint, or of a file that kdjax exported, in float32.

  Args:
    init: a file or folder, `pip:NAME` for the files of an installed package (none of its code is
      run), or `hf:org/name`, with `@revision` where one is wanted.
    model: the config of the model, 'model' and attributes.
    like: a tree of the names and shapes that the model wants.
    vocabulary: a hash of the tokenizer in use, '' for none.
    without: a module that a file of kdjax may have and `like` has not.

  Raises:
    KdjaxError: if the checkpoint cannot be found or read, is of another architecture (it says which
      tensors are missing, extra or of another shape, or which attribute differs), or comes with
      another vocabulary.
  """
  found = files(init)
  named = tensors.traced(tensors.read(found.weights))
  if any(checkpoint.whole(name).startswith('params/') for name in named):
    variables = checkpoint.load(found.weights[0], like, vocabulary, without)
    tensors.refuse_not_finite(flatten_dict(variables, sep='/'), init)
    return variables
  converter, attributes = _converter(model['model']), _attributes(model)
  _check(attributes, _said(found, converter), init)
  parts = (attributes, *(v for v in attributes.values() if isinstance(v, Mapping)))
  if vocabulary and found.tokenizer and any('vocab_size' in part for part in parts):
    words = tokenizers.load(found.tokenizer).get_vocab()
    if fingerprint(sorted(words.items())) != vocabulary:
      raise KdjaxError(
        f'{init} was trained with another vocabulary: set data.tokenizer to {found.tokenizer}.'
      )
  converted = converter.convert(named, attributes)
  variables = checkpoint.fit(converted, like, init)
  tensors.refuse_not_finite(converted, init)
  progress.say(_told(found, tensors.unread(named, converted)))
  return jax.tree.map(lambda x: np.asarray(x, np.float32), variables)
