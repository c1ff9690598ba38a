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

from kdjax import registry
from kdjax.errors import KdjaxError, unknown
from kdjax.input import tokenizer as tokenizers
from kdjax.nn import log_mel
from kdjax.pretrained import classes as classes_
from kdjax.pretrained import hf_config, images, safetensors_io, tensors, texts
from kdjax.pretrained.find import Files, companion, files, read_json
from kdjax.runtime import progress
from kdjax.runtime.files import fingerprint, user_path

FREE = ('dropout', 'num_classes', 'pool', 'normalise', 'dense')  # may differ from the checkpoint's
SHOWN = ('pool', 'dense', 'normalise', 'mel')  # attributes of the checkpoint to print
PROBLEM = 'single_label_classification'


def architectures() -> list[str]:
  """The models that have a converter."""
  return [name for name in registry.names('pretrained') if name in registry.names('models')]


def architecture(init: str) -> dict[str, Any]:
  """The dict of the model that a checkpoint is of, as its config.json or the stage.json beside it says.

  Args:
    init: as in `load`.

  Raises:
    KdjaxError: if neither says it, or the model of that kind has not what it says.
  """
  paths = files(init)
  if stage := companion(paths.weights[0].parent, 'stage.json').get('model'):
    return {k: _tuples(v) for k, v in stage.items() if k not in ('init', 'frozen')}
  config_json = read_json(paths.config) if paths.config else {}
  kind, fitting, refusals = hf_config.name(config_json), [], {}
  for name in architectures() if kind else ():
    try:
      if hasattr(_converter(name), 'config'):
        _converter(name).config(config_json, paths.weights[0].parent)
        fitting.append(name)
    except hf_config.OtherKind:
      continue
    except KdjaxError as e:  # of this kind, with what the model has not
      refusals[str(e)] = e
  if len(fitting) == 1:
    return {'model': fitting[0]}
  if len(refusals) == 1 and not fitting:
    raise next(iter(refusals.values()))
  said = f'its config.json says {kind!r}' if kind else 'it has no config.json that says it'
  raise KdjaxError(
    f'of which architecture is {init}? {said}: name one of {", ".join(architectures())}, model=...'
  )


def has_tokenizer(init: str) -> bool:
  """Whether a checkpoint has a tokenizer.json."""
  return files(init).tokenizer is not None


def _converter(name: str) -> ModuleType:
  if name not in architectures():
    raise unknown('architecture with a converter', name, architectures())
  return registry.module('pretrained', name)


def _config_attributes(paths: Files, converter: ModuleType, model: Mapping[str, Any]) -> dict[str, Any]:
  """The attributes of the model in its config.json, or without one those of its published weights."""
  if paths.config is None:
    return converter.unsaid(model) if hasattr(converter, 'unsaid') else {}
  folder = paths.config.parent
  return converter.config(read_json(paths.config), folder) if hasattr(converter, 'config') else {}


def _exported(paths: Files, model: Mapping[str, Any]) -> dict[str, Any]:
  """The attributes in the stage.json beside weights of kdjax, of the same model and its submodules."""

  def matching(stored, ours):
    if not isinstance(stored, Mapping) or stored.get('model') != ours.get('model'):
      return {}
    attributes = {}
    for key, value in stored.items():
      if isinstance(value, Mapping):
        inner = matching(value, ours[key]) if isinstance(ours.get(key), Mapping) else {}
        attributes |= {key: inner} if inner else {}
      elif key not in ('model', 'init', 'frozen', 'num_classes'):
        attributes[key] = _tuples(value)
    return attributes

  return matching(companion(paths.weights[0].parent, 'stage.json').get('model'), model)


def _filled(model: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
  """`model`, with `defaults` for what it leaves out; the towers of a model alike."""
  inner = {k: _filled(v, defaults[k]) for k, v in model.items() if isinstance(v, Mapping) and k in defaults}
  return dict(defaults) | dict(model) | inner


def complete(init: str, model: Mapping[str, Any]) -> dict[str, Any]:
  """The config of a model, with the attributes that it leaves out from the checkpoint's config.json.

  Args:
    init: as in `load`.
    model: 'model' and attributes.

  Raises:
    KdjaxError: if there is no such checkpoint, or it is of another kind of model.
  """
  paths, name = files(init), model['model']
  stored = _exported(paths, model)
  if name in architectures():
    stored |= _config_attributes(paths, _converter(name), model)
  return _filled(model, stored)


def _attributes(model: Mapping[str, Any]) -> dict[str, Any]:
  """All attributes of a config, with the defaults of the module and of those within it."""
  explicit = {k: _attributes(v) if isinstance(v, Mapping) and 'model' in v else v for k, v in model.items()}
  return registry.options('models', model['model']) | explicit


def _check_attributes(
  attributes: Mapping[str, Any], stored: Mapping[str, Any], init: str, prefix: str = ''
) -> None:
  """Raises KdjaxError for an attribute that differs, which shapes alone may not show."""
  for key, value in stored.items():
    ours = attributes.get(key, inspect.Parameter.empty)
    if key == 'mel' and ours is not inspect.Parameter.empty:
      ours, value = log_mel.settings(ours), log_mel.settings(value)
      if ours._replace(length=0) != value._replace(length=0):
        raise KdjaxError(f'{init} has {prefix}mel {value}, and the model {ours}: leave its {prefix}mel out.')
    elif isinstance(value, Mapping) and isinstance(ours, Mapping):
      _check_attributes(ours, value, init, f'{prefix}{key}.')
    elif key not in FREE and ours is not inspect.Parameter.empty and _tuples(ours) != _tuples(value):
      raise KdjaxError(
        f'{init} has {prefix}{key} {value!r}, and the model {ours!r}: set its {prefix}{key} to {value!r}.'
      )


def _tuples(value: Any) -> Any:
  """Lists as tuples, which JSON does not have."""
  return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _check_head(paths: Files, converter: ModuleType, weights: Mapping, attributes: Mapping[str, Any]) -> None:
  """Raises KdjaxError for a classifier that is of another kind than the model's."""
  config_json = read_json(paths.config) if paths.config else {}
  kind = config_json.get('problem_type') or PROBLEM
  if attributes.get('num_classes') and kind != PROBLEM:
    raise KdjaxError(f'{paths.config} has problem_type {kind!r}; a classifier here is of {PROBLEM!r}.')
  if attributes.get('num_classes') and hasattr(converter, 'check_head'):
    converter.check_head(config_json, weights, attributes)


def tokenizer(init: str) -> Path:
  """The tokenizer.json of a checkpoint, for `data.tokenizer`.

  Args:
    init: as in `load`; a tokenizer.json itself is returned.

  Raises:
    KdjaxError: if it has none.
  """
  if init.endswith('.json'):
    return user_path(init)
  paths = files(init)
  if paths.tokenizer is None:
    theirs = texts.named(paths)
    hint = f': fetch that of hf:{theirs} into its folder.' if theirs else '.'
    raise KdjaxError(f'{init} has no tokenizer.json beside {paths.weights[0].name}{hint}')
  return paths.tokenizer


def _load_message(paths: Files, stored: Mapping[str, Any], unread: list[str], notes: Sequence[str]) -> str:
  """The line to print: weights, pooling and preprocessing of the checkpoint, and tensors left out."""
  values = {k: v for part in (stored, *stored.values()) if isinstance(part, Mapping) for k, v in part.items()}
  lines = [f'{k} {values[k]}' for k in SHOWN if k in values] + [texts.describe(paths), *notes]
  source = (
    paths.weights[0]
    if len(paths.weights) == 1
    else f'{len(paths.weights)} files of {paths.weights[0].parent}'
  )
  skipped = f'; left out, as the model has no such layer: {tensors.summary(unread)}' if unread else ''
  return f'weights from {source}{skipped}' + ''.join(f'; {line}' for line in lines if line)


def load_tokenizer(init: str) -> Tokenizer:
  """The tokenizer of a checkpoint or file, with its padding and case, for `data.tokenizer`.

  Raises:
    KdjaxError: if it has none, or it cannot be read.
  """
  return texts.load(tokenizer(init))


def load(
  init: str,
  model: Mapping[str, Any],
  template: Mapping,
  vocabulary: str = '',
  without: str = '',
  classes: Sequence[str] = (),
) -> dict:
  """Variables of a published checkpoint, or of a file that kdjax exported, in float32.

  Args:
    init: a file or folder, `pip:NAME` for the files of an installed package (none of its code is
      run), or `hf:org/name`, with `@revision` where one is wanted.
    model: the config of the model, 'model' and attributes.
    template: a tree with the names and shapes of the model's variables.
    vocabulary: a hash of the tokenizer in use, '' for none.
    without: a module that a file of kdjax may have and `template` has not.
    classes: the names of the data's classes; where the checkpoint's files give the same names in another
      order, the classifier's outputs are put into this one.

  Raises:
    KdjaxError: if the checkpoint cannot be found or read, is of another architecture (it says which
      tensors are missing, extra or of another shape, or which attribute differs), has another number of
      classes, or comes with another vocabulary.
  """
  paths, expected = files(init), flatten_dict(template, sep='/')
  weights = tensors.traced(tensors.read(paths.weights))
  permutation = classes_.order(classes_.names(paths), classes, init) if classes else None
  if any(safetensors_io.whole(name).startswith('params/') for name in weights):
    classes_.check({safetensors_io.whole(k): x for k, x in weights.items()}, expected, init)
    variables = safetensors_io.load(paths.weights[0], template, vocabulary, without)
    flat: dict[str, Any] = flatten_dict(variables, sep='/')
    tensors.refuse_not_finite(flat, init)
    return unflatten_dict(classes_.reordered(flat, permutation), sep='/') if permutation else variables
  converter, attributes = _converter(model['model']), _attributes(model)
  if hasattr(converter, 'beside'):
    for prefix, path in converter.beside(paths.weights[0].parent).items():
      weights |= tensors.traced({prefix + name: x for name, x in tensors.read([path]).items()})
  stored = _config_attributes(paths, converter, model)
  _check_attributes(attributes, stored, init)
  parts = (attributes, *(v for v in attributes.values() if isinstance(v, Mapping)))
  if vocabulary and paths.tokenizer and any('vocab_size' in part for part in parts):
    token_ids = tokenizers.load(paths.tokenizer).get_vocab()
    if fingerprint(sorted(token_ids.items())) != vocabulary:
      raise KdjaxError(
        f'{init} was trained with another vocabulary: set data.tokenizer to {paths.tokenizer}.'
      )
  if 'num_classes' in attributes:  # of the data, where the config leaves it out
    attributes['num_classes'] = classes_.count(expected)
  _check_head(paths, converter, weights, attributes)
  converted = converter.convert(weights, attributes)
  classes_.check(converted, expected, init)
  images.check_side(converted, expected, attributes, init)
  converted = classes_.reordered(converted, permutation) if permutation else converted
  variables = safetensors_io.fit(converted, template, init)
  tensors.refuse_not_finite(converted, init)
  reorder_note = 'its classes in the order of the data, by their names' if permutation else ''
  notes = [images.describe(paths, attributes), reorder_note]
  progress.say(_load_message(paths, stored, tensors.unread(weights, converted), notes))
  return jax.tree.map(lambda x: np.asarray(x, np.float32), variables)
