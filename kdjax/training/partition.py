"""Which array lies where on the mesh: rules that split the arrays of a model, and of its optimizer.

Rules are None (every device has the whole), 'auto', or pairs of a regular expression and, for each axis of an
array, the axis of the mesh, '' for none. The first whose expression matches an array's whole path counts.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import GetAttrKey, keystr, tree_map_with_path

from kdjax.errors import KdjaxError
from kdjax.training import sharding
from kdjax.types import Model

Rules = str | tuple[tuple[str, tuple[str, ...]], ...] | None
SMALL = 2**10  # values of an array that 'auto' leaves whole: moving it would cost more than it holds
WHOLE = PartitionSpec()


def of_variables(variables: Any, mesh: Mesh, rules: Rules, key: str = 'the rules') -> Any:
  """The PartitionSpec of every array of a model's variables, or of their shapes, of one seed.

  Args:
    variables: collection -> arrays, such as 'params'.
    mesh: from `sharding.make_mesh`.
    rules: of the model.
    key: of the rules, for messages.

  Raises:
    KdjaxError: for a rule that matches no array, or splits an axis that does not divide.
  """
  if not rules:
    return jax.tree.map(lambda x: WHOLE, variables)
  if rules == 'auto':
    return jax.tree.map(lambda x: _auto(x.shape, mesh), variables)
  assert not isinstance(rules, str)
  unused = {pattern for pattern, _ in rules}

  def spec(path, x):
    name = _name(path)
    for pattern, axes in rules:
      if re.fullmatch(pattern, name):
        unused.discard(pattern)
        return _spec(axes, x.shape, mesh, f'{key}: the rule {pattern!r}', name)
    return WHOLE

  specs = tree_map_with_path(spec, variables)
  if unused and jax.tree.leaves(variables):
    names = sorted({_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)})
    more = f' … ({len(names)} in all)' if len(names) > 12 else ''
    raise KdjaxError(
      f'{key}: the rule {min(unused)!r} matches no array: it is a regular expression of a whole path, of '
      f'{", ".join(names[:12])}{more}.'
    )
  return specs


def of_state(state: Any, params: Mapping, mesh: Mesh, rules: Rules, key: str = 'the rules') -> Any:
  """The PartitionSpec of every array of a training's state: moments and averages lie as their parameters.

  Args:
    state: arrays or shapes of one seed, with the optimizer's; whatever is like no parameter is whole.
    params: its 'student' and 'method' parameters.
    mesh, rules, key: as of `of_variables`; what a method learns is split by 'auto' alone.
  """
  student = of_variables({'params': params['student']}, mesh, rules, key)['params']
  method = of_variables({'params': params['method']}, mesh, 'auto' if rules == 'auto' else None)['params']
  known = {}
  for roots, arrays, specs in (
    (('student', 'params'), params['student'], student),
    (('method',), params['method'], method),
  ):
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    for (path, x), spec in zip(leaves, jax.tree.leaves(specs, is_leaf=_is_spec), strict=True):
      known |= {(root, *map(_key, path)): (x.shape, spec) for root in roots}

  def spec(path, x):
    keys = tuple(map(_key, path))
    for i in range(len(keys)):  # the longest end of the path that names a parameter
      shape, found = known.get(keys[i:], (None, WHOLE))
      if shape == x.shape:
        return found
    return WHOLE

  return tree_map_with_path(spec, state)


def shardings(specs: Any, mesh: Mesh, stacked: bool = False) -> Any:
  """The shardings of `specs`; `stacked` of arrays with a leading axis of seeds, which every device has."""
  lead = (None,) * stacked
  return jax.tree.map(lambda s: NamedSharding(mesh, PartitionSpec(*lead, *s)), specs, is_leaf=_is_spec)


def bytes_each(tree: Any, specs: Any, mesh: Mesh) -> float:
  """Bytes of the arrays of a tree on each device."""
  leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(specs, is_leaf=_is_spec), strict=True)
  return sum(math.prod(x.shape) * x.dtype.itemsize / _parts(spec, mesh) for x, spec in leaves)


def with_split_taps(model: Model, mesh: Mesh, batch_size: int) -> Model:
  """`model`, whose taps are asked to lie as the batch does; itself where the mesh has the axis 'data' alone.

  Where weights are split too, the compiler could also split the taps, and what the losses make of them, in
  other ways.
  """
  if mesh.axis_names == (sharding.AXIS,):
    return model

  def apply(variables, batch, *, train=False, rng=None):
    outputs, stats = model.apply(variables, batch, train=train, rng=rng)
    return {k: sharding.split_rows(x, mesh, batch_size) for k, x in outputs.items()}, stats

  return model._replace(apply=apply)


def _is_spec(x):
  return isinstance(x, PartitionSpec)


def _key(entry) -> str:
  return keystr((entry,), simple=True)


def _name(path) -> str:
  """'encoder/kernel': the path within a collection; the parts of a quantised array have its name."""
  path = path[1:-1] if isinstance(path[-1], GetAttrKey) else path[1:]
  return keystr(path, simple=True, separator='/')


def _parts(spec, mesh) -> int:
  return math.prod(mesh.shape[axis] for axis in spec if axis)


def _auto(shape, mesh) -> PartitionSpec:
  """For 'fsdp', then for 'tensor', the largest axis that divides and is not split yet."""
  spec: list[str | None] = [None] * len(shape)
  for axis in ('fsdp', 'tensor') if math.prod(shape) >= SMALL else ():
    n = mesh.shape.get(axis, 1)
    if n > 1 and (free := [i for i, size in enumerate(shape) if not spec[i] and size % n == 0]):
      spec[max(free, key=lambda i: shape[i])] = axis
  return PartitionSpec(*spec)


def _spec(axes, shape, mesh, rule, name) -> PartitionSpec:
  """The spec of a rule for one array; axes that the mesh does not have, or of size 1, split nothing."""
  if len(axes) > len(shape) and len(shape):
    raise KdjaxError(f'{rule} has {len(axes)} axes, and {name} has {len(shape)}: {tuple(shape)}.')
  spec = []
  for size, axis in zip(shape, axes, strict=False):
    n = mesh.shape.get(axis, 1)
    if n > 1 and size > 1 and size % n:
      raise KdjaxError(f'{rule} splits an axis of {size} of {name} over {axis!r} of {n}: it does not divide.')
    spec.append(axis if n > 1 and size > 1 else None)
  return PartitionSpec(*spec)
