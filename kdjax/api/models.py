"""The models that a program gives, as the part of a recipe that names them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict

from kdjax import pretrained, registry
from kdjax.api.identity import identity
from kdjax.api.trained import Trained, given
from kdjax.errors import KdjaxError
from kdjax.nn import wrappers
from kdjax.nn.wrappers import nnx_module
from kdjax.pretrained import checkpoints, tensors
from kdjax.runtime.array_hash import hash_arrays
from kdjax.runtime.files import fingerprint, user_path
from kdjax.teacher_store import manifest, precomputed

TAKES = (
  'a Linen module, an NNX module or a function that makes one of rngs, (module, variables), a dict with '
  "'model', a path or kdjax.load(...)"
)


class Checkpoint(NamedTuple):
  """A published model, from `kdjax.load`.

  Attributes:
    init: where its weights are: PATH, pip:NAME or hf:org/name.
    model: the name and attributes of its model.
    tokenizer: where its tokenizer is, '' without one.
  """

  init: str
  model: Mapping[str, Any]
  tokenizer: str = ''


def host(function) -> precomputed.Host:
  """Marks a teacher that computes outside JAX: a server, a torch module, any library.

  Args:
    function: `(batch) -> logits [B, C] or a dict of arrays [B, ...]`, called with NumPy arrays, at most 256
      examples at once, each once: its outputs are kept in the workdir. The batch is an array where the data
      have one input, else a dict.
  """
  return precomputed.Host(function)


def teacher(value: Any) -> dict[str, Any]:
  """The keys of `config.teacher` for the argument `teacher` of `distill`.

  Raises:
    KdjaxError: for anything that is no teacher.
  """
  if isinstance(value, (str, Path)):
    path = user_path(str(value))
    if path.suffix.lower() in ('.npy', '.parquet') or (path / manifest.NAME).exists():
      return {'outputs': str(path)}
    value = load(value)
  if isinstance(value, Trained):
    return _trained(value)
  if isinstance(value, Checkpoint):
    return {'init': value.init, 'model': dict(value.model)}
  if isinstance(value, precomputed.Host):
    name = _name(value.function)
    return {'outputs': registry.add_object(name, identity(value.function), value)}
  if hasattr(value, 'dtype') and hasattr(value, 'shape'):
    value = {'logits': value}
  if isinstance(value, Mapping) and value and 'model' not in value and _are_arrays(value):
    outputs = precomputed.parse(value, 'teacher')
    return {'outputs': registry.add_object('outputs', hash_arrays(outputs), outputs)}
  model = _model(value, 'teacher')
  fixed = registry.is_object(model['model']) and registry.python_object(model['model']).variables is not None
  return {'model': model | ({'frozen': True} if fixed else {})}


def student(value: Any) -> dict[str, Any]:
  """The keys of `config.student` for the argument `student` of `distill`.

  Raises:
    KdjaxError: for anything that is no model, or that cannot be trained.
  """
  if isinstance(value, (str, Path)):
    value = load(value)
  if isinstance(value, Trained):
    value = Checkpoint(str(value.weights), value.model)
  if isinstance(value, Checkpoint):
    return {'model': dict(value.model) | {'init': value.init}}
  model = _model(value, 'student')
  net = registry.python_object(model['model']).value if registry.is_object(model['model']) else None
  if net is not None and isinstance(wrappers.wrap(net), wrappers.Function):
    raise KdjaxError(f'the student {_name(net)} is a function, which has no weights to train: give {TAKES}.')
  return {'model': model}


def _trained(value: Trained) -> dict[str, Any]:
  """The keys of `config.teacher` for a model that kdjax trained."""
  name = value.model['model']
  if not registry.is_object(name):
    return {'init': str(value.weights), 'model': value.model}
  return teacher((registry.python_object(name).value, value.variables))


def _are_arrays(value) -> bool:
  return all(hasattr(x, 'dtype') or isinstance(x, (list, tuple)) for x in value.values())


def _model(value, stage) -> dict[str, Any]:
  """The dict of a model, for a config."""
  if isinstance(value, Mapping) and 'model' in value:
    return dict(value)
  if isinstance(value, tuple) and len(value) == 2:
    net, weights = value
  else:
    net, weights = value, None
  if net is None or isinstance(net, (Mapping, int, float, list, tuple)):
    raise KdjaxError(f'the {stage} is a {type(net).__name__}; it has to be {TAKES}.')
  wrapped = wrappers.wrap(net)
  variables = wrapped.variables() if isinstance(net, nnx.Module) else None
  if weights is not None:
    variables = _variables(net, weights, stage)
  name, marks = _name(net), [identity(net)]
  if variables is not None:
    marks.append(hash_arrays(variables))
  return {'model': registry.add_object(name, fingerprint(*marks)[:8], net, variables)}


def _variables(net, weights, stage) -> dict[str, Any]:
  """Collections of arrays, of a dict of them, of bare parameters, of an NNX state, or of a file."""
  if isinstance(weights, (str, Path)):
    return checkpoints.read(weights)
  if isinstance(weights, nnx.State):
    return nnx_module.collections(weights)
  if not isinstance(weights, Mapping):
    raise KdjaxError(f'the weights of the {stage} are a {type(weights).__name__}: give a dict, or a path.')
  tree = {str(k): v for k, v in weights.items()}
  if 'params' not in tree:
    tree = {'params': tree}
  flat = {tuple(map(str, k)): np.asarray(x) for k, x in flatten_dict(jax.device_get(_plain(tree))).items()}
  tensors.refuse_not_finite({'/'.join(k): x for k, x in flat.items()}, f'the {stage}')
  return _plain(tree)


def _plain(tree):
  return {str(k): _plain(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def _name(net) -> str:
  """What people call a model."""
  inner = getattr(net, 'func', net)  # of a partial
  return getattr(inner, '__name__', type(inner).__name__).strip('<>')


def weights(path: str | Path, keys: Mapping[str, str] | None = None) -> dict[str, Any]:
  """The variables in a checkpoint file, to be given beside a module: `teacher=(module, kdjax.weights(path))`.

  Args:
    path: safetensors, Flax .msgpack, .npz, Keras .weights.h5, a torch file, or a folder that Orbax wrote.
    keys: pattern of a name in the file -> the module's name, where they differ:
      {r'features/(\\d+)/weight': r'params/block_\\1/kernel'}.

  Returns:
    A dict of collections, 'params' among them.

  Raises:
    KdjaxError: if it cannot be read.
  """
  return checkpoints.read(path, keys)


def load(source: str | Path, model: Any = '', trust: Sequence[str] = ()) -> Any:
  """A published model, or a student that kdjax saved.

  Args:
    source: a file or folder, `pip:NAME` or `hf:org/name`.
    model: its name, see `kdjax models`, or a dict of 'model' and attributes; by default what its config.json
      or stage.json says. Of a saved student that is a module of yours, the module.

    trust: modules outside kdjax that a saved student names, and that may be imported.

  Returns:
    A `Checkpoint` for `distill`, or the `Trained` model of a folder of `Trained.save`, which predicts.

  Raises:
    KdjaxError: if there is none, or it is of no architecture with a converter.
  """
  init = str(source)
  workdir = Path(init).expanduser()
  for stage in ('student', 'teacher'):
    if (workdir / stage / 'stage.json').exists():
      trained = Trained(workdir, stage, trust=trust)
      given(trained, model or None)
      return trained
  named = {'model': model} if isinstance(model, str) and model else dict(model or {})
  if not named:
    named = pretrained.architecture(init)
  return Checkpoint(init, named, init if pretrained.has_tokenizer(init) else '')
