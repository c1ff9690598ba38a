"""What indexing with `[]`, `take` and `take_along_axis` makes, as slices and as indices along one axis."""

import math

import numpy as np
from jax import lax

from kdjax.export.views import part, reshape


def split(graph, x, *, sizes, axis, **_):
  parts, at, shape = [], 0, graph.shape(x)
  for size in map(int, sizes):
    starts, limits = [0] * len(shape), list(shape)
    starts[axis], limits[axis] = at, at + size
    parts.append(part(graph, x, starts, limits, [1] * len(shape)))
    at += size
  return parts


def slice_(graph, x, *, out, start_indices, limit_indices, strides, **_):
  return part(graph, x, start_indices, limit_indices, strides or [1] * len(start_indices))


def dynamic_slice(graph, x, *starts, out, slice_sizes, **_):
  numbers = [graph.scalar(s) for s in starts]
  if None in numbers:
    raise graph.unsupported('dynamic_slice', 'begins where the inputs say')
  limits = zip(numbers, slice_sizes, graph.shape(x), strict=True)
  first = [0 if size == whole else min(max(n, 0), whole - size) for n, size, whole in limits]
  return part(graph, x, first, [a + n for a, n in zip(first, slice_sizes, strict=True)], [1] * len(first))


def gather(graph, x, indices, *, out, dimension_numbers, slice_sizes, mode, **_):
  """Slices, one axis by indices, or indices along one axis: what indexing with `[]` and `take` make."""
  numbers, rank = dimension_numbers, len(graph.shape(indices)) - 1
  axes, batch = list(numbers.start_index_map), tuple(numbers.operand_batching_dims)
  gone, offset = list(numbers.collapsed_slice_dims), tuple(numbers.offset_dims)
  if batch:
    first, ours = len(batch), batch == tuple(numbers.start_indices_batching_dims) == tuple(range(len(batch)))
    if ours and axes == gone == [first] and offset == tuple(range(rank, len(out.shape))):
      return _take_along(graph, x, _index(graph, indices, mode, graph.shape(x)[first]), first, out)
    raise graph.unsupported('gather', 'takes elements along several axes')
  places = graph.constants.get(indices)
  if places is not None:
    x, axes, gone, places = _slice_same(graph, x, axes, gone, slice_sizes, places)
    if not axes:
      return reshape(graph, x, out.shape)
  first, n, shape = axes[0], len(axes), graph.shape(x)
  around = (*range(first), *range(first + rank, len(out.shape)))
  if axes != gone or axes != list(range(first, first + n)) or offset != around or (n > 1 and places is None):
    raise graph.unsupported('gather', 'takes elements from several axes')
  if places is None:
    return _take(graph, x, _index(graph, indices, mode, shape[first]), first, out.shape)
  if n > 1 and n == rank and (vectors := _grid(places)):
    for axis, vector in enumerate(vectors, first):
      shape = (*shape[:axis], len(vector), *shape[axis + 1 :])
      x = _take(graph, x, graph.constant(vector), axis, shape)
    return x
  sizes = shape[first : first + n]
  flat = np.ravel_multi_index(tuple(np.moveaxis(places, -1, 0)), sizes, mode='clip')
  x = reshape(graph, x, (*shape[:first], math.prod(sizes), *shape[first + n :]))
  return _take(graph, x, graph.constant(np.asarray(flat, np.int32)), first, out.shape)


def _slice_same(graph, x, axes, gone, sizes, places):
  """Slices the axes on which all indices are the same; returns what is left, its axes numbered anew."""
  same = {axis: k for k, axis in enumerate(axes) if (places[..., k] == places[..., k].flat[0]).all()}
  starts, limits = [0] * len(sizes), list(graph.shape(x))
  for axis, k in same.items():
    starts[axis] = min(max(int(places[..., k].flat[0]), 0), limits[axis] - sizes[axis])
    limits[axis] = starts[axis] + sizes[axis]
  x = part(graph, x, starts, limits, [1] * len(starts))
  dropped = [axis for axis in same if axis in gone]
  x = reshape(graph, x, tuple(n for axis, n in enumerate(graph.shape(x)) if axis not in dropped))

  def anew(old):
    return [axis - sum(d < axis for d in dropped) for axis in old if axis not in same]

  return x, anew(axes), anew(gone), places[..., [k for k, axis in enumerate(axes) if axis not in same]]


def _grid(places):
  """The vectors of which indices [n, m, 2] are all pairs; None where they are not."""
  n = places.shape[-1]
  vectors = [places[(*(slice(None) if i == k else 0 for i in range(n)), k)] for k in range(n)]
  pairs = np.stack(np.meshgrid(*vectors, indexing='ij'), -1)
  return vectors if np.array_equal(pairs, places) else None


def _take(graph, x, indices, axis, shape):
  """`take`, or a slice where the indices are constants at equal distances."""
  known, single, old = graph.constants.get(indices), graph.scalar(indices), graph.shape(x)
  run = known.tolist() if known is not None and known.ndim == 1 else [] if single is None else [single]
  step = max(1, run[1] - run[0]) if len(run) > 1 else 1
  even = run and run == list(range(run[0], run[0] + step * len(run), step))
  if not even or run[0] < 0 or run[-1] >= old[axis]:
    return graph.add('take', [x, indices], shape, graph.dtype(x), axis=axis)
  starts, limits, strides = [0] * len(old), list(old), [1] * len(old)
  starts[axis], limits[axis], strides[axis] = run[0], run[-1] + 1, step
  x = part(graph, x, starts, limits, strides)
  if known is None or known.ndim != 1:
    ones = [1] * len(graph.shape(indices))
    x = reshape(graph, x, (*old[:axis], *ones, *old[axis + 1 :]))
  return x if graph.shape(x) == shape else graph.add('broadcast_to', [x], shape, graph.dtype(x), to=shape)


def _take_along(graph, x, indices, axis, out):
  """`take_along`, or a slice where all indices are the same."""
  place = graph.scalar(indices)
  if place is not None and len(graph.shape(indices)) == axis + 1:
    return _take(graph, x, graph.constant(np.full(graph.shape(indices)[-1:], place)), axis, out.shape)
  return graph.add('take_along', [x, indices], *out, batch=axis)


def _index(graph, indices, mode, size):
  """Indices without the axis of their components, and without the step that makes negative ones positive."""
  shape, source = graph.shape(indices)[:-1], indices
  while view := graph.step(source, 'expand_dims', 'squeeze', 'reshape'):
    (source,) = view.inputs
  indices = reshape(graph, indices, shape)
  if step := graph.step(source, 'where'):
    below, wrapped, plain = step.inputs
    test, shifted = graph.step(below, 'lt'), graph.step(wrapped, 'add')
    ours = test and test.inputs[0] == plain and graph.scalar(test.inputs[1]) == 0
    same = ours and graph.shape(plain) == graph.shape(source)
    if same and shifted and shifted.inputs[0] == plain and graph.scalar(shifted.inputs[1]) == size:
      return reshape(graph, plain, shape)
  if mode == lax.GatherScatterMode.CLIP:
    low, high = (graph.constant(np.asarray(n, graph.dtype(indices))) for n in (0, size - 1))
    return graph.add('clamp', [low, indices, high], shape, graph.dtype(indices))
  return indices
