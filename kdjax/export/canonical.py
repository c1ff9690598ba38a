"""JAX primitives as the fewer and plainer steps that the formats translate.

| step | what it does |
|---|---|
| an `ELEMENTWISE` one | as NumPy's, operands broadcast |
| reshape, transpose, expand_dims, squeeze, broadcast_to | views, as NumPy's |
| matmul | as NumPy's |
| conv | `[B, *spatial, C] × [*window, C / groups, O] -> [B, *spatial', O]` |
| max_pool, sum_pool | windows over `[B, *spatial, C]` |
| take | `x[..., indices, ...]` on one axis |
| take_along | `x[i, ..., indices[i, ...]]`, where i runs over the leading axes that both have |
| slice, concatenate, pad, rev, cumsum | along axes |
| reduce_*, argmax, argmin | over axes, which go |
"""

import math
from collections.abc import Callable

import numpy as np
from jax import lax

from kdjax.errors import KdjaxError
from kdjax.export.graph import Graph, Shape, Value

SAME_VALUE = ('stop_gradient', 'copy', 'copy_p', 'optimization_barrier', 'pvary')
RENAMED = {'add_any': 'add', 'logical_not': 'not'}


def convert(graph: Graph, primitive: str, inputs: list[str], out: list[Value], params: dict) -> list[str]:
  """Adds an equation of JAX to the graph.

  Args:
    graph: it grows.
    primitive: name of JAX's.
    inputs: names of the operands.
    out: of each result.
    params: of the equation.

  Returns:
    The names of the results.

  Raises:
    KdjaxError: if its parameters are of a kind that has no translation.
  """
  if primitive in SAME_VALUE:
    return inputs
  if primitive == 'split':
    return _split(graph, inputs[0], **params)
  if len(out) != 1:
    raise unsupported(primitive, 'gives several arrays')
  if primitive in RULES:
    return [RULES[primitive](graph, *inputs, out=out[0], **params)]
  kept = {k: v for k, v in params.items() if k in KEPT.get(primitive, ())}
  return [graph.add(RENAMED.get(primitive, primitive), inputs, *out[0], **kept)]


def unsupported(primitive: str, why: str, form: str = 'export') -> KdjaxError:
  """The error for what has no translation to the formats that kdjax writes itself."""
  return KdjaxError(f'{form}: the model uses {primitive}, which {why}; StableHLO takes every model.')


def reshape(graph: Graph, x: str, shape: Shape) -> str:
  """A view of x with another shape, as a step that says most about it."""
  shape, old = tuple(shape), tuple(graph.shape(x))
  if step := graph.step(x, 'reshape', 'expand_dims', 'squeeze'):
    return reshape(graph, step.inputs[0], shape)
  if shape == old:
    return x
  for name, small, large in ('expand_dims', old, shape), ('squeeze', shape, old):
    axes = _ones(small, large)
    if axes is not None:
      return graph.add(name, [x], shape, graph.dtype(x), axes=axes)
  return graph.add('reshape', [x], shape, graph.dtype(x), to=shape)


def _ones(small: Shape, large: Shape) -> tuple[int, ...] | None:
  """The axes of size 1 that `large` has beyond `small`; None where it is no such shape."""
  axes, i = [], 0
  for axis, size in enumerate(large):
    if i < len(small) and small[i] == size:
      i += 1
    elif size == 1:
      axes.append(axis)
    else:
      return None
  return tuple(axes) if i == len(small) else None


def transpose(graph: Graph, x: str, permutation: tuple[int, ...]) -> str:
  """x with its axes in another order."""
  if step := graph.step(x, 'transpose'):
    permutation = tuple(step.params['permutation'][p] for p in permutation)
    return transpose(graph, step.inputs[0], permutation)
  permutation = tuple(map(int, permutation))
  if permutation == tuple(range(len(permutation))):
    return x
  shape = tuple(graph.shape(x)[p] for p in permutation)
  return graph.add('transpose', [x], shape, graph.dtype(x), permutation=permutation)


def part(graph: Graph, x: str, starts, limits, strides) -> str:
  """x[start:limit:stride, ...]."""
  shape = graph.shape(x)
  whole = zip(starts, limits, strides, shape, strict=True)
  if all(start == 0 and limit == size and stride == 1 for start, limit, stride, size in whole):
    return x
  strides = tuple(map(int, strides))
  sizes = zip(starts, limits, strides, strict=True)
  new = tuple(b - a if s == 1 else -(-(b - a) // s) for a, b, s in sizes)
  starts, limits = tuple(starts), tuple(limits)
  return graph.add('slice', [x], new, graph.dtype(x), starts=starts, limits=limits, strides=strides)


def _split(graph, x, *, sizes, axis, **_):
  parts, at, shape = [], 0, graph.shape(x)
  for size in map(int, sizes):
    starts, limits = [0] * len(shape), list(shape)
    starts[axis], limits[axis] = at, at + size
    parts.append(part(graph, x, starts, limits, [1] * len(shape)))
    at += size
  return parts


def _slice(graph, x, *, out, start_indices, limit_indices, strides, **_):
  return part(graph, x, start_indices, limit_indices, strides or [1] * len(start_indices))


def _dynamic_slice(graph, x, *starts, out, slice_sizes, **_):
  numbers = [graph.scalar(s) for s in starts]
  if None in numbers:
    raise unsupported('dynamic_slice', 'begins where the inputs say')
  limits = zip(numbers, slice_sizes, graph.shape(x), strict=True)
  first = [0 if size == whole else min(max(n, 0), whole - size) for n, size, whole in limits]
  return part(graph, x, first, [a + n for a, n in zip(first, slice_sizes, strict=True)], [1] * len(first))


def _broadcast_in_dim(graph, x, *, out, shape, broadcast_dimensions, **_):
  kept = dict(zip(broadcast_dimensions, graph.shape(x), strict=True))
  x = reshape(graph, x, tuple(kept.get(axis, 1) for axis in range(len(shape))))
  return x if graph.shape(x) == tuple(shape) else graph.add('broadcast_to', [x], *out, to=tuple(shape))


def _convert(graph, x, *, out, **_):
  return x if graph.dtype(x) == out.dtype else graph.add('convert', [x], *out)


def _compare(primitive):
  def rule(graph, x, y, *, out, **_):
    """A mask that was made a number and compared with 0 is the mask."""
    step = graph.step(x, 'convert')
    if step and graph.dtype(step.inputs[0]) == 'bool' and graph.scalar(y) == 0:
      return step.inputs[0]
    return graph.add(primitive, [x, y], *out)

  return rule


def _max(graph, x, y, *, out, **_):
  for one, other in ((x, y), (y, x)):
    if graph.scalar(one) == -math.inf:
      return other
  return graph.add('max', [x, y], *out)


def _integer_pow(graph, x, *, out, y, **_):
  if y == 2:
    return graph.add('square', [x], *out)
  return graph.add('pow', [x, graph.constant(np.asarray(y, out.dtype))], *out)


def _select_n(graph, which, *cases, out, **_):
  if graph.dtype(which) != 'bool':
    raise unsupported('select_n', 'chooses by a number')
  return graph.add('where', [which, cases[1], cases[0]], *out)


def _clamp(graph, low, x, high, *, out, **_):
  return graph.add('clamp', [low, x, high], *out)


def _round(graph, x, *, out, rounding_method, **_):
  if rounding_method != lax.RoundingMethod.TO_NEAREST_EVEN:
    raise unsupported('round', 'rounds halves away from zero')
  return graph.add('round', [x], *out)


def _pad(graph, x, value, *, out, padding_config, **_):
  number, shape = graph.scalar(value), graph.shape(x)
  low, high, interior = (tuple(map(int, c)) for c in zip(*padding_config, strict=True))
  if number is None or any(interior):
    raise unsupported('pad', 'pads between the elements, or with what the inputs say')
  starts = [max(-lo, 0) for lo in low]
  limits = [n + min(hi, 0) for n, hi in zip(shape, high, strict=True)]
  x = part(graph, x, starts, limits, [1] * len(shape))
  low, high = (tuple(max(p, 0) for p in pads) for pads in (low, high))
  if not any(low + high):
    return x
  return graph.add('pad', [x], *out, low=low, high=high, value=number)


def _dot_general(graph, x, y, *, out, dimension_numbers, **_):
  """A matmul of stacks of matrices; the operands change places where that moves fewer of them."""
  contract, batch = dimension_numbers
  plans = [_matmul_plan(graph, *pair) for pair in (((x, y), contract, batch), ((y, x), contract[::-1], batch[::-1]))]
  swap = plans[1][0] < plans[0][0]
  _, (left, right), batch, contract, rows, columns = plans[swap]
  middle = (math.prod(rows),) if batch else rows or (1,)
  left = reshape(graph, left, (*batch, *middle, contract))
  right = reshape(graph, right, (*batch, contract, math.prod(columns)))
  product = graph.add('matmul', [left, right], (*batch, *middle, math.prod(columns)), out.dtype)
  product = reshape(graph, product, (*batch, *rows, *columns))
  n, r, end = len(batch), len(batch) + len(rows), len(batch) + len(rows) + len(columns)
  return transpose(graph, product, (*range(n), *range(r, end), *range(n, r))) if swap else product


def _matmul_plan(graph, names, contract, batch):
  """(cost, the operands in the order batch, rows, contracted | batch, contracted, columns, their sizes)."""
  shapes = [graph.shape(n) for n in names]
  free = [[i for i in range(len(shapes[k])) if i not in (*contract[k], *batch[k])] for k in (0, 1)]
  orders = (*batch[0], *free[0], *contract[0]), (*batch[1], *contract[1], *free[1])
  moved = [n not in graph.weights and o != tuple(sorted(o)) for n, o in zip(names, orders, strict=True)]
  cost = sum(moved) + 2 * (names[0] in graph.weights)
  views = [transpose(graph, n, o) for n, o in zip(names, orders, strict=True)]
  rows, columns = (tuple(shapes[k][i] for i in free[k]) for k in (0, 1))
  sizes = tuple(shapes[0][i] for i in batch[0]), math.prod(shapes[0][i] for i in contract[0])
  return cost, views, *sizes, rows, columns


def _conv(graph, x, w, *, out, dimension_numbers, window_strides, padding, **params):
  lhs, rhs, result = dimension_numbers
  if params['batch_group_count'] != 1 or any(d != 1 for d in params['lhs_dilation']):
    raise unsupported('conv_general_dilated', 'is transposed or grouped over the batch')
  x = transpose(graph, x, (lhs[0], *lhs[2:], lhs[1]))
  w = transpose(graph, w, (*rhs[2:], rhs[1], rhs[0]))
  order = (result[0], *result[2:], result[1])
  y = graph.add(
    'conv',
    [x, w],
    tuple(out.shape[i] for i in order),
    out.dtype,
    strides=tuple(window_strides),
    padding=tuple((int(lo), int(hi)) for lo, hi in padding),
    dilation=tuple(params['rhs_dilation']),
    groups=params['feature_group_count'],
  )
  return transpose(graph, y, tuple(map(order.index, range(len(order)))))


def _pool(kind):
  def rule(graph, x, *, out, window_dimensions, window_strides, padding, **params):
    ends = [(window_dimensions[i], window_strides[i], tuple(padding[i])) for i in (0, -1)]
    dilated = any(d != 1 for d in (*params['base_dilation'], *params['window_dilation']))
    if dilated or len(window_strides) < 3 or ends != [(1, 1, (0, 0))] * 2:
      raise unsupported(f'reduce_window_{kind}', 'is dilated, or pools over examples or channels')
    window, strides = tuple(window_dimensions[1:-1]), tuple(window_strides[1:-1])
    pads = tuple((int(lo), int(hi)) for lo, hi in padding[1:-1])
    return graph.add(f'{kind}_pool', [x], *out, window=window, strides=strides, padding=pads)

  return rule


def _gather(graph, x, indices, *, out, dimension_numbers, slice_sizes, mode, **_):
  """Slices, one axis by indices, or indices along one axis: what indexing with `[]` and `take` make."""
  shape, numbers = graph.shape(x), dimension_numbers
  axes, offset = tuple(numbers.start_index_map), tuple(numbers.offset_dims)
  count, batch = len(graph.shape(indices)) - 1, tuple(numbers.operand_batching_dims)
  known, first, n = indices in graph.constants, axes[0], len(axes)
  if known and not count and not batch:
    starts = [0] * len(shape)
    for axis, start in zip(axes, graph.constants[indices].tolist(), strict=True):
      starts[axis] = min(max(start, 0), shape[axis] - slice_sizes[axis])
    limits = [a + size for a, size in zip(starts, slice_sizes, strict=True)]
    return reshape(graph, part(graph, x, starts, limits, [1] * len(shape)), out.shape)
  places = tuple(range(first)) + tuple(range(first + count, len(out.shape)))
  whole = all(size == shape[i] for i, size in enumerate(slice_sizes) if i not in (*axes, *batch))
  alone = axes == tuple(numbers.collapsed_slice_dims) == tuple(range(first, first + n)) and whole
  leading = batch == tuple(numbers.start_indices_batching_dims) == tuple(range(first))
  if alone and batch and leading and n == 1 and offset == tuple(range(count, len(out.shape))):
    return graph.add('take_along', [x, _index(graph, indices, mode, shape[first])], *out, batch=first)
  if not alone or batch or offset != places or (n > 1 and not known):
    raise unsupported('gather', 'takes elements from several axes at once')
  if n > 1:
    sizes, flat = shape[first : first + n], np.moveaxis(graph.constants[indices], -1, 0)
    indices = graph.constant(np.ravel_multi_index(tuple(flat), sizes).astype(np.int32)[..., None])
    x = reshape(graph, x, (*shape[:first], math.prod(sizes), *shape[first + n :]))
  size = graph.shape(x)[first]
  return _take(graph, x, _index(graph, indices, mode, size), first, out)


def _take(graph, x, indices, axis, out):
  """`take`, or a slice where the indices are constants and follow each other."""
  known, single = graph.constants.get(indices), graph.scalar(indices)
  run = known.tolist() if known is not None and known.ndim == 1 else [] if single is None else [single]
  follow = run and 0 <= run[0] and run == list(range(run[0], run[0] + len(run)))
  if not follow or run[-1] >= graph.shape(x)[axis]:
    return graph.add('take', [x, indices], *out, axis=axis)
  ends = [(run[0], run[0] + len(run)) if i == axis else (0, n) for i, n in enumerate(graph.shape(x))]
  x = part(graph, x, *zip(*ends, strict=True), [1] * len(ends))
  if known is None or known.ndim != 1:
    shape, ones = graph.shape(x), [1] * len(graph.shape(indices))
    x = reshape(graph, x, (*shape[:axis], *ones, *shape[axis + 1 :]))
  return x if graph.shape(x) == out.shape else graph.add('broadcast_to', [x], *out, to=out.shape)


def _index(graph, indices, mode, size):
  """Indices without the axis of their components, and without the step that makes negative ones positive."""
  indices = reshape(graph, indices, graph.shape(indices)[:-1])
  if step := graph.step(indices, 'where'):
    below, wrapped, plain = step.inputs
    test, shifted = graph.step(below, 'lt'), graph.step(wrapped, 'add')
    ours = test and test.inputs[0] == plain and graph.scalar(test.inputs[1]) == 0
    if ours and shifted and shifted.inputs[0] == plain and graph.scalar(shifted.inputs[1]) == size:
      return plain
  if mode == lax.GatherScatterMode.CLIP:
    low, high = (graph.constant(np.asarray(n, graph.dtype(indices))) for n in (0, size - 1))
    return graph.add('clamp', [low, indices, high], *graph.values[indices])
  return indices


def _iota(graph, *sizes, out, shape, dimension, dtype, **_):
  if not isinstance(shape[dimension], int):
    raise unsupported('iota', 'counts the examples')
  numbers = graph.constant(np.arange(shape[dimension], dtype=dtype))
  return _broadcast_in_dim(graph, numbers, out=out, shape=shape, broadcast_dimensions=(dimension,))


def _cumulative(graph, x, *, out, axis, reverse, **_):
  return graph.add('cumsum', [x], *out, axis=axis, reverse=reverse)


RULES: dict[str, Callable] = {
  'broadcast_in_dim': _broadcast_in_dim,
  'clamp': _clamp,
  'conv_general_dilated': _conv,
  'convert_element_type': _convert,
  'cumsum': _cumulative,
  'dot_general': _dot_general,
  'dynamic_slice': _dynamic_slice,
  'gather': _gather,
  'gt': _compare('gt'),
  'integer_pow': _integer_pow,
  'iota': _iota,
  'max': _max,
  'ne': _compare('ne'),
  'pad': _pad,
  'reduce_window_max': _pool('max'),
  'reduce_window_sum': _pool('sum'),
  'reshape': lambda graph, x, *, out, **_: reshape(graph, x, out.shape),
  'round': _round,
  'select_n': _select_n,
  'slice': _slice,
  'squeeze': lambda graph, x, *, out, **_: reshape(graph, x, out.shape),
  'transpose': lambda graph, x, *, out, permutation: transpose(graph, x, permutation),
}
KEPT = {'concatenate': ('dimension',), 'rev': ('dimensions',), 'fft': ('fft_type', 'fft_lengths')}
KEPT |= {f'reduce_{kind}': ('axes',) for kind in ('sum', 'max', 'min', 'prod', 'and', 'or')}
KEPT |= {'argmax': ('axes',), 'argmin': ('axes',)}
