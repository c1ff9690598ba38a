"""Views of a value: its elements in another shape or order, or a part of them."""

from kdjax.export.graph import Graph, Shape


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
  if sum(not isinstance(n, int) for n in shape) > 1:
    raise graph.unsupported('reshape', 'has the number of examples in several axes')
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
  spans = zip(starts, limits, strides, graph.shape(x), strict=True)
  cut = [(a, b, s) for a, b, s, n in spans if not (a == 0 and b == n and s == 1)]
  if not cut:
    return x
  if any(not isinstance(n, int) for span in cut for n in span):
    raise graph.unsupported('slice', 'takes some of the examples')
  strides = tuple(map(int, strides))
  sizes = zip(starts, limits, strides, strict=True)
  new = tuple(b - a if s == 1 else -(-(b - a) // s) for a, b, s in sizes)
  starts, limits = tuple(starts), tuple(limits)
  return graph.add('slice', [x], new, graph.dtype(x), starts=starts, limits=limits, strides=strides)
