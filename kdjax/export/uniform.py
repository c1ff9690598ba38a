"""Steps that are not needed, since an operand is the same number everywhere: masks of ones, sums with 0."""

import math
from typing import Any

import numpy as np

from kdjax.export.graph import Graph, Value

NEUTRAL = {'add': 0, 'sub': 0, 'mul': 1, 'div': 1, 'and': True, 'or': False, 'ne': False, 'gt': False}
ABSORBING = {'and': False, 'or': True}
ONE_SIDED = ('sub', 'div', 'ne', 'gt')  # x - 0 is x, 0 - x is not
REDUCED = ('reduce_sum', 'reduce_max', 'reduce_min', 'reduce_and', 'reduce_or')


def uniform(graph: Graph, number: Any, out: Value) -> str:
  """A value that is the same number everywhere."""
  name = graph.constant(np.asarray(number, out.dtype))
  return graph.add('broadcast_to', [name], *out, to=out.shape) if out.shape else name


def simplified(graph: Graph, primitive: str, inputs: list[str], out: Value, params: dict) -> str | None:
  """The result of an equation that needs no step of its own; None where it does."""
  numbers = [graph.scalar(n) for n in inputs]
  if primitive in NEUTRAL and all(graph.dtype(n) == out.dtype for n in inputs):
    for number, other in ((numbers[1], inputs[0]), (numbers[0], inputs[1])):
      if number is not None and number == NEUTRAL[primitive] and graph.shape(other) == out.shape:
        return other
      if number is not None and out.dtype == 'bool' and number == ABSORBING.get(primitive):
        return uniform(graph, number, out)
      if primitive in ONE_SIDED:
        break
  if primitive == 'lt' and numbers[1] == 0 and graph.dtype(inputs[0]).startswith('uint'):
    return uniform(graph, False, out)
  if (
    primitive == 'select_n'
    and numbers[0] is not None
    and graph.shape(inputs[1 + int(numbers[0])]) == out.shape
  ):
    return inputs[1 + int(numbers[0])]
  if primitive in REDUCED and numbers[0] is not None:
    sizes = [graph.shape(inputs[0])[axis] for axis in params['axes']]
    times = math.prod(sizes) if primitive == 'reduce_sum' else 1
    return uniform(graph, numbers[0] * times, out) if all(isinstance(n, int) and n for n in sizes) else None
  if numbers and numbers[0] is not None and primitive in ('rev', 'argmax', 'argmin'):
    return inputs[0] if primitive == 'rev' else uniform(graph, 0, out)
  return None
