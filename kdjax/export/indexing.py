"""What indexing with `[]`, `take` and `take_along_axis` makes, as slices and as indices along one axis."""

import math

import numpy as np
from jax import lax

from kdjax.export.views import part, reshape, unsupported


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
    raise unsupported('dynamic_slice', 'begins where the inputs say')
  limits = zip(numbers, slice_sizes, graph.shape(x), strict=True)
  first = [0 if size == whole else min(max(n, 0), whole - size) for n, size, whole in limits]
  return part(graph, x, first, [a + n for a, n in zip(first, slice_sizes, strict=True)], [1] * len(first))


def gather(graph, x, indices, *, out, dimension_numbers, slice_sizes, mode, **_):
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
    places = _index(graph, indices, mode, shape[first])
    if graph.scalar(places) is not None and len(graph.shape(places)) == first + 1:
      return _take(graph, x, graph.constant(np.asarray([graph.scalar(places)])), first, out)
    return graph.add('take_along', [x, places], *out, batch=first)
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
  follow = run and run[0] >= 0 and run == list(range(run[0], run[0] + len(run)))
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
    return graph.add('clamp', [low, indices, high], *graph.values[indices])
  return indices
