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

from kdjax.export import indexing
from kdjax.export.graph import Graph, Value
from kdjax.export.uniform import simplified
from kdjax.export.views import part, reshape, transpose

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
    return indexing.split(graph, inputs[0], **params)
  if len(out) != 1:
    raise graph.unsupported(primitive, 'gives several arrays')
  if (known := simplified(graph, primitive, inputs, out[0], params)) is not None:
    return [known]
  if primitive in RULES:
    return [RULES[primitive](graph, *inputs, out=out[0], **params)]
  kept = {k: v for k, v in params.items() if k in KEPT.get(primitive, ())}
  return [graph.add(RENAMED.get(primitive, primitive), inputs, *out[0], **kept)]


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
    raise graph.unsupported('select_n', 'chooses by a number')
  return graph.add('where', [which, cases[1], cases[0]], *out)


def _clamp(graph, low, x, high, *, out, **_):
  return graph.add('clamp', [low, x, high], *out)


def _round(graph, x, *, out, rounding_method, **_):
  if rounding_method != lax.RoundingMethod.TO_NEAREST_EVEN:
    raise graph.unsupported('round', 'rounds halves away from zero')
  return graph.add('round', [x], *out)


def _pad(graph, x, value, *, out, padding_config, **_):
  number, shape = graph.scalar(value), graph.shape(x)
  low, high, interior = (tuple(map(int, c)) for c in zip(*padding_config, strict=True))
  if number is None or any(interior):
    raise graph.unsupported('pad', 'pads between the elements, or with what the inputs say')
  starts = [max(-lo, 0) for lo in low]
  limits = [n + min(hi, 0) for n, hi in zip(shape, high, strict=True)]
  x = part(graph, x, starts, limits, [1] * len(shape))
  low, high = (tuple(max(p, 0) for p in pads) for pads in (low, high))
  if not any(low + high):
    return x
  return graph.add('pad', [x], *out, low=low, high=high, value=number)


def _fft(graph, x, *, out, fft_type, fft_lengths):
  if fft_type != lax.FftType.RFFT or len(fft_lengths) != 1:
    raise graph.unsupported('fft', 'is not that of real numbers over one axis')
  return graph.add('fft', [x], *out, size=fft_lengths[0])


def _dot_general(graph, x, y, *, out, dimension_numbers, **_):
  """A matmul of stacks of matrices; the operands change places where that moves fewer of them."""
  x, y = (_convert(graph, n, out=Value(graph.shape(n), out.dtype)) for n in (x, y))
  contract, batch = dimension_numbers
  plans = [
    _matmul_plan(graph, *pair) for pair in (((x, y), contract, batch), ((y, x), contract[::-1], batch[::-1]))
  ]
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
    raise graph.unsupported('conv_general_dilated', 'is transposed or grouped over the batch')
  if min(min(pads) for pads in padding) < 0:
    raise graph.unsupported('conv_general_dilated', 'crops its input')
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
      raise graph.unsupported(f'reduce_window_{kind}', 'is dilated, or pools over examples or channels')
    window, strides = tuple(window_dimensions[1:-1]), tuple(window_strides[1:-1])
    pads = tuple((int(lo), int(hi)) for lo, hi in padding[1:-1])
    return graph.add(f'{kind}_pool', [x], *out, window=window, strides=strides, padding=pads)

  return rule


def _iota(graph, *sizes, out, shape, dimension, dtype, **_):
  if not isinstance(shape[dimension], int):
    raise graph.unsupported('iota', 'counts the examples')
  numbers = graph.constant(np.arange(shape[dimension], dtype=dtype))
  return _broadcast_in_dim(graph, numbers, out=out, shape=shape, broadcast_dimensions=(dimension,))


def _concatenate(graph, *operands, out, dimension):
  filled = [n for n in operands if graph.shape(n)[dimension] != 0]
  return filled[0] if len(filled) == 1 else graph.add('concatenate', filled, *out, dimension=int(dimension))


def _cumulative(graph, x, *, out, axis, reverse, **_):
  return graph.add('cumsum', [x], *out, axis=axis, reverse=reverse)


RULES: dict[str, Callable] = {
  'broadcast_in_dim': _broadcast_in_dim,
  'clamp': _clamp,
  'concatenate': _concatenate,
  'conv_general_dilated': _conv,
  'convert_element_type': _convert,
  'cumsum': _cumulative,
  'dot_general': _dot_general,
  'dynamic_slice': indexing.dynamic_slice,
  'fft': _fft,
  'gather': indexing.gather,
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
  'slice': indexing.slice_,
  'squeeze': lambda graph, x, *, out, **_: reshape(graph, x, out.shape),
  'transpose': lambda graph, x, *, out, permutation: transpose(graph, x, permutation),
}
KEPT = {'rev': ('dimensions',)}
KEPT |= {f'reduce_{kind}': ('axes',) for kind in ('sum', 'max', 'min', 'prod', 'and', 'or')}
KEPT |= {'argmax': ('axes',), 'argmin': ('axes',)}
