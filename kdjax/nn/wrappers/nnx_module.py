"""An NNX module as pure functions of its state, with the output of each module within it as a tap."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from kdjax.errors import KdjaxError
from kdjax.nn.wrappers import call as calls
from kdjax.nn.wrappers.call import Wrapper
from kdjax.nn.wrappers.outputs import taps

COLLECTIONS = {nnx.Param: 'params', nnx.BatchStat: 'batch_stats'}  # others are named after their type


def is_nnx(value: Any) -> bool:
  """Whether a value is an NNX module, or makes one: a class, a `partial` of it, a function of `rngs`."""
  if isinstance(value, nnx.Module):
    return True
  inner = value.func if isinstance(value, functools.partial) else value
  if isinstance(inner, type):
    return issubclass(inner, nnx.Module)
  if not callable(value):
    return False
  required = [k for k, p in calls.parameters(value).items() if p.default is inspect.Parameter.empty]
  return required == ['rngs']


class Nnx(Wrapper):
  """Calls an NNX module with the arrays that it takes, and returns its outputs as taps.

  Its state is held as a dict of collections, 'params' for `nnx.Param`, 'batch_stats' for `nnx.BatchStat`.
  Keys of random streams are not part of it, but drawn anew for every step.
  """

  def __init__(self, source: Any, ranges: Mapping[str, str] = {}):
    self.make: Callable[..., Any] | None = None if isinstance(source, nnx.Module) else source
    module = source if self.make is None else nnx.eval_shape(lambda: source(rngs=nnx.Rngs(0)))
    if not isinstance(module, nnx.Module):
      raise KdjaxError(f'a function of rngs has to return an nnx.Module, and not {type(module).__name__}.')
    super().__init__(type(module).__name__, module.__call__, ranges)
    self.module = module
    self.graph, self.shapes = nnx.split(module)

  def variables(self) -> dict[str, Any]:
    """The state of the module that was given, as a dict of collections."""
    return collections(nnx.state(self.module))

  def merged(self, variables: Mapping) -> Any:
    """The module with these variables."""
    flat: dict[tuple, Any] = {}
    for collection in variables.values():
      flat |= flatten_dict(dict(collection))
    state = []
    for path, variable in nnx.to_flat_state(self.shapes):
      key = tuple(map(str, path))
      if key in flat:
        value = flat[key]
      elif isinstance(variable, nnx.RngKey):
        value = jax.random.key(0)
      elif isinstance(variable, nnx.RngCount):
        value = jnp.zeros((), jnp.uint32)
      else:
        raise KdjaxError(f'{self.name} has no weights for {"/".join(key)}.')
      state.append((path, variable.replace(value)))
    return nnx.merge(self.graph, nnx.from_flat_state(state))

  def _run(self, module, call, arrays, train, rng=None):
    module.train() if train else module.eval()
    if rng is not None:
      _reseed(module, rng)
    positional, named = call.arguments(arrays, self.ranges)
    mode = calls.modes(calls.parameters(self.function), train)
    outputs, captured = nnx.capture(module, nnx.Intermediate, method_outputs=nnx.Intermediate)(
      *positional, **named, **mode
    )
    return taps(outputs, _by_path(captured))

  def trace(self, call, shapes):
    variables = jax.eval_shape(lambda: _zeros(self.shapes))
    jax.eval_shape(lambda v, arrays: self._run(self.merged(v), call, arrays, False), variables, shapes)

  def init(self, rngs: Mapping[str, Any], arrays: Mapping, train: bool = False) -> dict[str, Any]:
    """The initial variables: those of `rngs`, or those of the module where one was given.

    Raises:
      KdjaxError: if the module cannot be called with the arrays.
    """
    self.call(arrays)
    if self.make is None:
      return self.variables()
    return collections(nnx.state(self.make(rngs=nnx.Rngs(rngs['params']))))

  def apply(
    self, variables: Mapping, arrays: Mapping, train: bool = False, rngs: Mapping = {}, mutable: Any = None
  ) -> Any:
    """The taps; with `mutable`, a list of collections, (the taps, these updated)."""
    call, module = self.call(arrays), self.merged(variables)
    named_taps = self._run(module, call, arrays, train, rngs.get('dropout'))
    if mutable is None:
      return named_taps
    updated = collections(nnx.state(module))
    return named_taps, {k: v for k, v in updated.items() if k in mutable}


def _reseed(module, rng):
  """Draws the keys of all random streams from `rng`."""
  keys = [variable for _, variable in nnx.iter_graph(module) if isinstance(variable, nnx.RngKey)]
  for i, variable in enumerate(keys):
    variable.set_value(jax.random.fold_in(rng, i))


def collections(state) -> dict[str, Any]:
  """A dict of collections of an NNX state, without random streams and intermediate outputs."""
  by_name: dict[str, dict] = {'params': {}}
  for path, variable in nnx.to_flat_state(state):
    if not isinstance(variable, (nnx.RngState, nnx.Intermediate)):
      by_name.setdefault(_collection(variable), {})[tuple(map(str, path))] = variable.get_value()
  return {name: unflatten_dict(flat) for name, flat in by_name.items()}


def _collection(variable) -> str:
  for kind, name in COLLECTIONS.items():
    if isinstance(variable, kind):
      return name
  return type(variable).__name__.lower()


def _zeros(state):
  """The collections of a state of shapes, as arrays."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), collections(state))


def _by_path(state) -> dict[str, Any]:
  """Module path -> output; of a module that is called more than once 'path', 'path:1', …"""
  by_path = {}
  for path, variable in nnx.to_flat_state(state):
    *parents, last = map(str, path)
    name = '/'.join(parents if last == '__call__' else [*parents, last])
    values = variable.get_value()
    if name:
      for i, value in enumerate(values if isinstance(values, tuple) else (values,)):
        by_path[f'{name}:{i}' if i else name] = value
  return by_path
