"""Each step of a graph as nodes of ONNX."""

import math
import re
from collections.abc import Callable

import numpy as np

from kdjax.export.graph import ELEMENTWISE, Step
from kdjax.export.onnx_elementwise import cast, elementwise, wrapped
from kdjax.export.onnx_file import File, Order, Stored, regrouped, target

LAST = np.iinfo(np.int64)  # limits of a slice that goes to an end
REDUCED = {
  'sum': 'Sum',
  'max': 'Max',
  'min': 'Min',
  'prod': 'Prod',
  'mean': 'Mean',
  'and': 'Min',
  'or': 'Max',
}


def translate(file: File, step: Step) -> None:
  """Adds the nodes of a step to the file.

  Raises:
    KdjaxError: if it has no translation.
  """
  if step.output in file.sources:
    return
  result = None
  if step.primitive in ELEMENTWISE or step.primitive == 'gelu':
    order = file.order(*step.inputs)
    tensor = elementwise(file, step, [file.aligned(n, order) for n in step.inputs])
    result = tensor and Stored(tensor, order)
  elif step.primitive in RULES:
    result = RULES[step.primitive](file, step, *step.inputs, **step.params)
  if result is None:
    raise file.graph.unsupported(step.primitive, 'is not among the primitives that are translated')
  plain = tuple(range(len(file.graph.shape(step.output))))
  file.stored[step.output] = result if isinstance(result, Stored) else Stored(result, plain)


def _channels_first(rank: int) -> Order:
  return (0, rank - 1, *range(1, rank - 1))


def _places(order: Order, axes) -> list[int]:
  return sorted(order.index(axis) for axis in axes)


def _without(order: Order, axes) -> Order:
  """The order of what is left of the axes, which are then numbered anew."""
  kept = sorted(axis for axis in order if axis not in axes)
  return tuple(kept.index(axis) for axis in order if axis not in axes)


def _reshape(file, step, x, to):
  shape, order = file.graph.shape(x), file.order(x)
  if order != tuple(range(len(shape))) and (found := regrouped(shape, to, order)):
    return Stored(file.node('Reshape', [file.read(x, order), file.numbers(found[1])]), found[0])
  return file.node('Reshape', [file.read(x), file.numbers(target(to))])


def _transpose(file, step, x, permutation):
  order = file.order(x)
  return Stored(file.read(x, order), tuple(map(permutation.index, order)))


def _expand_dims(file, step, x, axes):
  order, rank = file.order(x), len(file.graph.shape(step.output))
  if order == tuple(range(len(order))):
    return file.node('Unsqueeze', [file.read(x), file.numbers(axes)])
  kept = [axis for axis in range(rank) if axis not in axes]
  places = range(len(order), rank)
  tensor = file.node('Unsqueeze', [file.read(x, order), file.numbers(places)])
  return Stored(tensor, (*(kept[axis] for axis in order), *axes))


def _squeeze(file, step, x, axes):
  order = file.order(x)
  tensor = file.node('Squeeze', [file.read(x, order), file.numbers(_places(order, axes))])
  return Stored(tensor, _without(order, axes))


def _broadcast_to(file, step, x, to):
  shape = file.graph.shape(x)
  shape = (1,) * (len(to) - len(shape)) + tuple(shape)
  sizes = [_size(file, n if n != old else 1) for n, old in zip(to, shape, strict=True)]
  if all(isinstance(n, int) for n in sizes):
    return file.node('Expand', [file.read(x), file.numbers(sizes)])
  vectors = [file.numbers([n]) if isinstance(n, int) else n for n in sizes]
  return file.node('Expand', [file.read(x), file.node('Concat', vectors, axis=0)])


def _size(file, size):
  """A number, or for so many times the number of examples a vector that holds it."""
  if isinstance(size, int):
    return size
  found = re.fullmatch(r'(?:(\d+)\*)?\w+', str(size))
  if not found:
    raise file.graph.unsupported('broadcast_in_dim', f'makes an axis of size {size}')
  times = file.numbers([int(found[1])]) if found[1] else None
  return file.node('Mul', [file.rows(), times]) if times else file.rows()


def _matmul(file, step, x, y):
  tensor, order = file.stored.get(y, Stored('', ()))
  if tensor not in file.arrays or order != (1, 0):
    return file.node('MatMul', [file.read(x), file.read(y)])
  shape = file.graph.shape(step.output)  # a weight that is read as it is elsewhere, such as the embeddings
  rows = file.node('Reshape', [file.read(x), file.numbers([-1, file.graph.shape(x)[-1]])])
  return file.node('Reshape', [file.node('Gemm', [rows, tensor], transB=1), file.numbers(target(shape))])


def _conv(file, step, x, w, *bias, strides, padding, dilation, groups):
  rank = len(strides) + 2
  tensors = [file.read(x, _channels_first(rank)), file.read(w, (rank - 1, rank - 2, *range(rank - 2)))]
  tensor = file.node(
    'Conv',
    [*tensors, *map(file.read, bias)],
    kernel_shape=tuple(file.graph.shape(w)[:-2]),
    strides=strides,
    pads=tuple(p for side in zip(*padding, strict=True) for p in side),
    dilations=dilation,
    group=groups,
  )
  return Stored(tensor, _channels_first(rank))


def _pool(op, **attributes):
  def rule(file, step, x, window, strides, padding):
    order = _channels_first(len(window) + 2)
    pads = tuple(p for side in zip(*padding, strict=True) for p in side)
    tensor = file.read(x, order)
    tensor = file.node(op, [tensor], kernel_shape=window, strides=strides, pads=pads, **attributes)
    if step.primitive == 'sum_pool':
      tensor = file.node('Mul', [tensor, file.array(math.prod(window), np.float32)])
    return Stored(tensor, order)

  return rule


def _batch_norm(file, step, x, mean, var, scale, *bias, epsilon):
  rank = len(file.graph.shape(x))
  order, size = _channels_first(rank), file.graph.shape(scale)[0]
  shift = file.read(*bias) if bias else file.array(np.zeros(size, np.float32))
  tensors = [file.read(x, order), file.read(scale), shift, file.read(mean), file.read(var)]
  return Stored(file.node('BatchNormalization', tensors, epsilon=epsilon), order)


def _layer_norm(file, step, *operands, epsilon):
  return file.node('LayerNormalization', map(file.read, operands), axis=-1, epsilon=epsilon)


def _softmax(file, step, x, axis):
  order = file.order(x)
  return Stored(file.node('Softmax', [file.read(x, order)], axis=order.index(axis)), order)


def _reduce(file, step, x, axes, keepdims=False):
  kind, order, dtype = step.primitive.removeprefix('reduce_'), file.order(x), file.graph.dtype(x)
  tensor = file.read(x, order)
  tensor = cast(file, tensor, 'INT32') if dtype == 'bool' else tensor
  tensor = file.node(
    f'Reduce{REDUCED[kind]}', [tensor, file.numbers(_places(order, axes))], keepdims=int(keepdims)
  )
  tensor = cast(file, tensor, 'BOOL') if dtype == 'bool' else tensor
  tensor = wrapped(file, tensor) if dtype == 'uint32' and kind == 'sum' else tensor
  return Stored(tensor, order if keepdims else _without(order, axes))


def _arg(op):
  def rule(file, step, x, axes):
    order, dtype = file.order(x), file.graph.dtype(x)
    tensor = file.read(x, order)
    tensor = cast(file, tensor, 'INT32') if dtype == 'bool' else tensor
    tensor = file.node(op, [tensor], axis=order.index(axes[0]), keepdims=0)
    return Stored(cast(file, tensor, file.held(step.output)), _without(order, axes))

  return rule


def _take(file, step, x, indices, axis):
  return file.node('Gather', [file.read(x), file.read(indices)], axis=axis)


def _take_along(file, step, x, indices, batch):
  places = file.node('Unsqueeze', [cast(file, file.read(indices), 'INT64'), file.numbers([-1])])
  return file.node('GatherND', [file.read(x), places], batch_dims=batch)


def _slice(file, step, x, starts, limits, strides):
  order, shape = file.order(x), file.graph.shape(x)
  whole = zip(starts, limits, strides, shape, strict=True)
  axes = [i for i, (a, b, s, n) in enumerate(whole) if not (a == 0 and b == n and s == 1)]
  vectors = (
    [starts[i] for i in axes],
    [limits[i] for i in axes],
    map(order.index, axes),
    [strides[i] for i in axes],
  )
  return Stored(file.node('Slice', [file.read(x, order), *map(file.numbers, vectors)]), order)


def _rev(file, step, x, dimensions):
  order, n = file.order(x), len(dimensions)
  vectors = [-1] * n, [LAST.min] * n, map(order.index, dimensions), [-1] * n
  return Stored(file.node('Slice', [file.read(x, order), *map(file.numbers, vectors)]), order)


def _concatenate(file, step, *operands, dimension):
  order = file.order(*operands)
  tensors = [file.read(n, order) for n in operands]
  return Stored(file.node('Concat', tensors, axis=order.index(dimension)), order)


def _pad(file, step, x, low, high, value):
  order, dtype = file.order(x), np.dtype('int64' if file.held(x) == 'INT64' else file.graph.dtype(x))
  pads = file.numbers([side[axis] for side in (low, high) for axis in order])
  return Stored(file.node('Pad', [file.read(x, order), pads, file.array(value, dtype)]), order)


def _cumsum(file, step, x, axis, reverse):
  if file.graph.dtype(x) not in ('float32', 'int32'):
    raise file.graph.unsupported('cumsum', f'works in {file.graph.dtype(x)}')
  order = file.order(x)
  axis = file.array(order.index(axis), np.int64)
  return Stored(file.node('CumSum', [file.read(x, order), axis], reverse=int(reverse)), order)


def _fft(file, step, x, size):
  """Nothing: its real and its imaginary part are matmuls, since runtimes have no complex numbers."""
  return ''


def _half(function):
  def rule(file, step, x):
    spectrum = file.graph.step(x, 'fft')
    if spectrum is None:
      raise file.graph.unsupported(step.primitive, 'is not of the result of an fft')
    size = spectrum.params['size']
    angles = 2 * np.pi / size * (np.outer(np.arange(size), np.arange(size // 2 + 1)) % size)
    return file.node('MatMul', [file.read(spectrum.inputs[0]), file.array(function(angles), np.float32)])

  return rule


RULES: dict[str, Callable] = {
  'argmax': _arg('ArgMax'),
  'argmin': _arg('ArgMin'),
  'avg_pool': _pool('AveragePool', count_include_pad=1),
  'batch_norm': _batch_norm,
  'broadcast_to': _broadcast_to,
  'concatenate': _concatenate,
  'conv': _conv,
  'cumsum': _cumsum,
  'expand_dims': _expand_dims,
  'fft': _fft,
  'imag': _half(lambda angles: -np.sin(angles)),
  'layer_norm': _layer_norm,
  'matmul': _matmul,
  'max_pool': _pool('MaxPool'),
  'pad': _pad,
  'real': _half(np.cos),
  'reshape': _reshape,
  'rev': _rev,
  'slice': _slice,
  'softmax': _softmax,
  'squeeze': _squeeze,
  'sum_pool': _pool('AveragePool', count_include_pad=1),
  'take': _take,
  'take_along': _take_along,
  'transpose': _transpose,
} | {f'reduce_{kind}': _reduce for kind in REDUCED}
