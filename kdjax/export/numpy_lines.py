"""Each step of a graph as one line of NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kdjax.export.graph import Graph, Step

FORMATS = {
  'add': '{} + {}',
  'argmax': '{}.argmax(axis={axes[0]}).astype(np.int32)',
  'argmin': '{}.argmin(axis={axes[0]}).astype(np.int32)',
  'avg_pool': 'avg_pool({}, {window}, {strides}, {padding})',
  'clamp': 'np.clip({1}, {0}, {2})',
  'convert': '{}.astype(np.{dtype})',
  'eq': '{} == {}',
  'erf': '1 - erfc({})',
  'erfc': 'erfc({})',
  'ge': '{} >= {}',
  'gt': '{} > {}',
  'imag': '{}.imag',
  'is_finite': 'np.isfinite({})',
  'le': '{} <= {}',
  'logistic': '0.5 * np.tanh(0.5 * {}) + 0.5',
  'lt': '{} < {}',
  'matmul': '{} @ {}',
  'max': 'np.maximum({}, {})',
  'max_pool': 'max_pool({}, {window}, {strides}, {padding})',
  'min': 'np.minimum({}, {})',
  'mul': '{} * {}',
  'ne': '{} != {}',
  'neg': '-{}',
  'not': '~{}',
  'pow': '{} ** {}',
  'real': '{}.real',
  'reduce_and': '{}.all(axis={axes})',
  'reduce_max': '{}.max(axis={axes})',
  'reduce_min': '{}.min(axis={axes})',
  'reduce_or': '{}.any(axis={axes})',
  'rem': 'np.fmod({}, {})',
  'round': 'np.rint({})',
  'rsqrt': '1 / np.sqrt({})',
  'shift_left': '{} << {}',
  'softmax': 'softmax({}, {axis})',
  'sub': '{} - {}',
  'sum_pool': 'sum_pool({}, {window}, {strides}, {padding})',
  'take_along': 'take_along({}, {}, {batch})',
  'and': '{} & {}',
  'or': '{} | {}',
  'xor': '{} ^ {}',
}
SAME_NAME = 'abs cbrt ceil cos cosh exp exp2 expm1 floor log log1p sign sin sinh sqrt square tan tanh'
FORMATS |= {name: f'np.{name}({{}})' for name in SAME_NAME.split()}
FORMATS |= {f'a{name}': f'np.arc{name}({{}})' for name in ('cos', 'cosh', 'sin', 'sinh', 'tan', 'tanh')}


def line(graph: Graph, step: Step) -> str:
  """The expression of a step; b is the number of examples.

  Raises:
    KdjaxError: if it has no translation.
  """
  dtype = graph.dtype(step.output)
  if not hasattr(np, dtype):
    raise graph.unsupported(step.primitive, f'works in {dtype}')
  operands = [operand(graph, n) for n in step.inputs]
  if step.primitive in FORMATS:
    return FORMATS[step.primitive].format(*operands, dtype=dtype, **step.params)
  if step.primitive in RULES:
    return RULES[step.primitive](graph, step, *operands, **step.params)
  raise graph.unsupported(step.primitive, 'is not among the primitives that are translated')


def operand(graph: Graph, name: str) -> str:
  """A value in a line: a number, an array of weights.npz, an input, or what an earlier line gave."""
  if name in graph.constants and not graph.shape(name):
    return number(graph.constants[name])
  if name in graph.steps:
    return name
  return f'weights[{name!r}]' if name in graph.weights or name in graph.constants else f'inputs[{name!r}]'


def number(value: Any) -> str:
  """A number as NumPy reads it: 0.1, not the nearest float32 in all its digits."""
  value = np.asarray(value)
  if not np.isfinite(value):
    return 'np.nan' if np.isnan(value) else f'{"-" if value < 0 else ""}np.inf'
  return str(value[()])


def _index(parts: list[str]) -> str:
  while len(parts) > 1 and parts[-1] == ':':
    parts.pop()
  return ', '.join(parts)


def _expand_dims(graph, step, x, axes):
  return f'{x}[{_index([":" if i not in axes else "None" for i in range(len(graph.shape(step.output)))])}]'


def _squeeze(graph, step, x, axes):
  return f'{x}[{_index([":" if i not in axes else "0" for i in range(len(graph.shape(step.inputs[0])))])}]'


def _slice(graph, step, x, starts, limits, strides):
  parts = []
  for start, limit, stride, size in zip(starts, limits, strides, graph.shape(step.inputs[0]), strict=True):
    ends = f'{start or ""}:{"" if limit == size else limit}'
    parts.append(ends if stride == 1 else f'{ends}:{stride}')
  return f'{x}[{_index(parts)}]'


def _rev(graph, step, x, dimensions):
  return f'{x}[{_index(["::-1" if i in dimensions else ":" for i in range(len(graph.shape(step.output)))])}]'


def _take(graph, step, x, indices, axis):
  return f'{x}[{_index([":"] * axis + [indices])}]'


def _reshape(graph, step, x, to):
  sizes = [str(n) if isinstance(n, int) else '-1' for n in to]
  return f'{x}.reshape({", ".join(sizes)})'


def _reduce(kind):
  def rule(graph, step, x, axes, keepdims=False):
    dtype = graph.dtype(step.output)
    whole = '' if dtype == 'float32' else f', dtype=np.{dtype}'
    return f'{x}.{kind}(axis={axes}{", keepdims=True" if keepdims else ""}{whole})'

  return rule


def _where(graph, step, which, yes, no):
  numbers = all(n in graph.constants for n in step.inputs[1:])
  return f'np.where({which}, {f"np.{graph.dtype(step.output)}({yes})" if numbers else yes}, {no})'


def _div(graph, step, x, y):
  dtype = graph.dtype(step.output)
  if dtype == 'float32':
    return f'{x} / {y}'
  return f'{x} // {y}' if dtype.startswith('u') else f'np.fix({x} / {y}).astype(np.{dtype})'


def _shift_right(graph, step, x, y):
  if step.primitive.endswith('logical') != graph.dtype(step.output).startswith('u'):
    raise graph.unsupported(step.primitive, f'works in {graph.dtype(step.output)}')
  return f'{x} >> {y}'


def _conv(graph, step, x, w, *bias, strides, padding, dilation, groups):
  grouped = f', groups={groups}' if groups > 1 else ''
  product = f'conv({x}, {w}, {strides}, {padding}, {dilation}{grouped})'
  return f'{product} + {bias[0]}' if bias else product


def _norm(graph, step, *operands, epsilon):
  return f'{step.primitive}({", ".join(operands)}, epsilon={number(np.float32(epsilon))})'


def _cumsum(graph, step, x, axis, reverse):
  total = f'np.cumsum({f"np.flip({x}, {axis})" if reverse else x}, {axis}, np.{graph.dtype(step.output)})'
  return f'np.flip({total}, {axis})' if reverse else total


RULES: dict[str, Callable] = {
  'batch_norm': _norm,
  'broadcast_to': lambda graph, step, x, to: f'np.broadcast_to({x}, ({", ".join(map(str, to))},))',
  'concatenate': lambda graph, step, *x, dimension: f'np.concatenate([{", ".join(x)}], axis={dimension})',
  'conv': _conv,
  'cumsum': _cumsum,
  'div': _div,
  'expand_dims': _expand_dims,
  'fft': lambda graph, step, x, size: f'np.fft.rfft({x}).astype(np.complex64)',
  'gelu': lambda graph, step, x, approximate: f'gelu{"_tanh" if approximate else ""}({x})',
  'layer_norm': _norm,
  'pad': lambda graph, step, x, low, high, value: (
    f'np.pad({x}, {tuple(zip(low, high, strict=True))}, constant_values={number(value)})'
  ),
  'reduce_mean': _reduce('mean'),
  'reduce_prod': _reduce('prod'),
  'reduce_sum': _reduce('sum'),
  'reshape': _reshape,
  'rev': _rev,
  'shift_right_arithmetic': _shift_right,
  'shift_right_logical': _shift_right,
  'slice': _slice,
  'squeeze': _squeeze,
  'take': _take,
  'transpose': lambda graph, step, x, permutation: f'{x}.transpose({", ".join(map(str, permutation))})',
  'where': _where,
}
