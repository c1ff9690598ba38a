"""What an ONNX file holds, while it is put together: nodes, arrays, and in which order the axes of each lie.

Convolutions of ONNX want the channels first, JAX has them last. So the axes of a value may be stored in
another order, from one convolution through all that works on each element to the next; a transposition is
written only where a step needs the order of JAX.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from kdjax.export.graph import FOLDED, Graph, Shape

# uint32 is held in int64: runtimes lack most kernels for it.
HELD = {
  'float32': 'FLOAT',
  'int32': 'INT32',
  'bool': 'BOOL',
  'uint8': 'UINT8',
  'int8': 'INT8',
  'uint32': 'INT64',
}
Order = tuple[int, ...]


class Node(NamedTuple):
  op: str
  inputs: tuple[str, ...]
  output: str
  attributes: dict[str, Any]


class Stored(NamedTuple):
  """A tensor of the file; its axis i is axis `order[i]` of the value."""

  tensor: str
  order: Order


@dataclasses.dataclass
class File:
  """Nodes and arrays, and where the values of a graph lie among them.

  Attributes:
    graph: the model.
    sources: value -> (name of the weight, array), of weights and of those that are only read as a view.
    nodes: those that run, in order.
    arrays: name of an initialiser -> array.
    stored: value -> `Stored`.
  """

  graph: Graph
  sources: Mapping[str, tuple[str, np.ndarray]]
  nodes: dict[Any, Node] = dataclasses.field(default_factory=dict)
  arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  stored: dict[str, Stored] = dataclasses.field(default_factory=dict)
  known: dict[Any, str] = dataclasses.field(default_factory=dict)

  def node(self, op: str, inputs: Iterable[str], **attributes: Any) -> str:
    """The output of a node; one that is there already is not made twice."""
    inputs = tuple(inputs)
    key = op, inputs, *sorted(attributes.items())
    if key not in self.nodes:
      self.nodes[key] = Node(op, inputs, f'{op}_{len(self.nodes) + 1}', attributes)
    return self.nodes[key].output

  def array(self, array: Any, dtype: Any = None) -> str:
    """The name of a constant; equal ones have the same."""
    array = np.asarray(array, dtype)
    key = array.dtype.str, array.shape, array.tobytes()
    if key not in self.known:
      self.known[key] = f'constant_{len(self.known) + 1}'
      self.arrays[self.known[key]] = array
    return self.known[key]

  def numbers(self, numbers: Iterable[int]) -> str:
    """A vector of whole numbers, as ONNX takes axes and shapes."""
    return self.array(list(numbers), np.int64)

  def held(self, name: str) -> str:
    """The ONNX type in which a value is held."""
    dtype = self.graph.dtype(name)
    if dtype not in HELD:
      raise self.graph.unsupported(
        self.graph.steps[name].primitive if name in self.graph.steps else name, f'is {dtype}'
      )
    return HELD[dtype]

  def read(self, name: str, order: Order | None = None) -> str:
    """The tensor of a value, its axes in that order, or in JAX's; a weight is stored as it is first read."""
    order = tuple(range(len(self.graph.shape(name)))) if order is None else tuple(order)
    self.held(name)
    if name in self.graph.constants:
      array = self.graph.constants[name]
      return self.array(array.transpose(order), np.int64 if array.dtype == np.uint32 else array.dtype)
    if name in self.sources and name not in self.stored:
      weight, array = self.sources[name]
      self.arrays[weight] = array.transpose(order)
      self.stored[name] = Stored(weight, order)
    tensor, has = self.stored[name]
    return tensor if has == order else self.node('Transpose', [tensor], perm=tuple(map(has.index, order)))

  def order(self, *names: str) -> Order:
    """The order in which the largest of the values lie; JAX's, where they differ."""
    rank = max(len(self.graph.shape(n)) for n in names)
    plain, sizes = tuple(range(rank)), {}
    for name in names:
      shape, stored = self.graph.shape(name), self.stored.get(name)
      if len(shape) == rank and stored and name not in self.sources:
        size = math.prod(n for n in shape if isinstance(n, int)), sum(not isinstance(n, int) for n in shape)
        sizes.setdefault(size[::-1], set()).add(stored.order)
    orders = sizes[max(sizes)] if sizes else set()
    return orders.pop() if len(orders) == 1 else plain

  def aligned(self, name: str, order: Order) -> str:
    """The tensor of an operand that broadcasts with tensors in that order."""
    added = len(order) - len(self.graph.shape(name))
    tensor = self.read(name, tuple(axis - added for axis in order if axis >= added))
    first = next((i for i, axis in enumerate(order) if axis >= added), len(order))
    ones = [i - first for i, axis in enumerate(order) if axis < added and i > first]
    return self.node('Unsqueeze', [tensor, self.numbers(ones)]) if ones else tensor

  def rows(self) -> str:
    """The number of examples, a vector of one number, of the first input that has any."""
    tensor = next(
      s.tensor for n, s in self.stored.items() if n not in self.graph.steps and n not in self.sources
    )
    return self.node('Shape', [tensor], start=0, end=1)


def begin(graph: Graph, weights: Mapping[str, np.ndarray]) -> File:
  """An empty file for a graph. A weight that is read only as a view is stored as that view."""
  uses = Counter(n for step in graph.steps.values() for n in step.inputs) + Counter(graph.outputs.values())
  sources = {n: (n, np.asarray(weights[n])) for n in graph.weights}
  for step in graph.steps.values():
    name = step.inputs[0] if step.inputs else ''
    if step.primitive in FOLDED and name in sources and uses[name] == 1:
      weight, array = sources.pop(name)
      sources[step.output] = weight, FOLDED[step.primitive](array, **step.params)
  return File(graph, sources)


def target(shape: Shape) -> list[int]:
  """A shape as Reshape takes it: -1 for the axis of the examples."""
  return [n if isinstance(n, int) else -1 for n in shape]


def regrouped(old: Shape, new: Shape, order: Order) -> tuple[Order, list[int]] | None:
  """How to reshape a tensor without bringing its axes into JAX's order.

  Args:
    old: shape of the value.
    new: the shape that it gets, one axis for several or several for one.
    order: that of the tensor.

  Returns:
    The order and shape of the reshaped tensor; None where it is not possible.
  """
  axes: dict[int, list[int]] = {}  # old axis -> new axes; those that go into the one before have none
  i = j = 0
  while i < len(old) and j < len(new):
    group, parts, size, made = [i], [j], old[i], new[j]
    while size != made:
      if not (isinstance(size, int) and isinstance(made, int)):
        return None
      if size < made and i + 1 < len(old) and isinstance(old[i + 1], int):
        i += 1
        group.append(i)
        size *= old[i]
      elif size > made and j + 1 < len(new) and isinstance(new[j + 1], int):
        j += 1
        parts.append(j)
        made *= new[j]
      else:
        return None
    place = order.index(group[0])
    if (len(group) > 1 and len(parts) > 1) or tuple(group) != order[place : place + len(group)]:
      return None
    axes |= dict.fromkeys(group[1:], []) | {group[0]: parts}
    i, j = i + 1, j + 1
  if i < len(old) or j < len(new):
    return None
  result = tuple(axis for old_axis in order for axis in axes[old_axis])
  return result, target(tuple(new[axis] for axis in result))
