"""A program as a flat list of steps, while it is put together and as the formats read it."""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from kdjax.errors import KdjaxError

Shape = tuple[Any, ...]  # whole numbers, and expressions of the symbol for the number of examples
UNARY = """
  abs acos acosh asin asinh atan atanh cbrt ceil convert cos cosh erf erfc exp exp2 expm1 floor is_finite log
  log1p logistic neg not round rsqrt sign sin sinh sqrt square tan tanh
"""
OTHER = """
  add and clamp div eq ge gt le lt max min mul ne or pow rem shift_left shift_right_arithmetic
  shift_right_logical sub where xor
"""
ELEMENTWISE = frozenset(UNARY.split() + OTHER.split())
FOLDED = {
  'expand_dims': lambda x, axes: np.expand_dims(x, axes),
  'squeeze': lambda x, axes: np.squeeze(x, axes),
  'reshape': lambda x, to: x.reshape(to),
  'transpose': lambda x, permutation: x.transpose(permutation),
}


class Value(NamedTuple):
  """An array that a step reads or gives; the axis of the batch is in its shape."""

  shape: Shape
  dtype: str


class Step(NamedTuple):
  """One equation: `output = primitive(*inputs, **params)`."""

  primitive: str
  inputs: tuple[str, ...]
  output: str
  params: dict[str, Any]


@dataclasses.dataclass
class Graph:
  """Steps in the order in which they run, and all arrays by name.

  Attributes:
    values: name -> `Value`, of inputs, weights, constants and what the steps give.
    constants: name -> array, of what depends on neither inputs nor weights.
    weights: names of the weights among the values.
    steps: result -> the step that gives it.
    outputs: tap -> name of its value.
    form: the format that is written, for errors.
  """

  values: dict[str, Value] = dataclasses.field(default_factory=dict)
  constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  weights: frozenset[str] = frozenset()
  steps: dict[str, Step] = dataclasses.field(default_factory=dict)
  outputs: dict[str, str] = dataclasses.field(default_factory=dict)
  form: str = 'export'
  known: dict[Any, str] = dataclasses.field(default_factory=dict)

  def unsupported(self, primitive: str, why: str) -> KdjaxError:
    """The error for what has no translation."""
    return KdjaxError(f'{self.form}: the model uses {primitive}, which {why}; StableHLO takes every model.')

  def shape(self, name: str) -> Shape:
    return self.values[name].shape

  def dtype(self, name: str) -> str:
    return self.values[name].dtype

  def step(self, name: str, *primitives: str) -> Step | None:
    """The step that gives a value, where it is one of `primitives`."""
    step = self.steps.get(name)
    return step if step and step.primitive in primitives else None

  def scalar(self, name: str) -> Any:
    """The one number of which a constant consists, also as a view; None for all else."""
    while step := self.step(name, 'broadcast_to', *FOLDED):
      (name,) = step.inputs
    array = self.constants.get(name)
    same = array is not None and array.size and (array == array.flat[0]).all()
    return array.flat[0].item() if array is not None and same else None

  def constant(self, array: Any) -> str:
    """The name of a constant; equal ones have the same."""
    array = np.asarray(array)
    key = array.dtype.str, array.shape, array.tobytes()
    if key not in self.known:
      name = self.known[key] = f'constant/{len(self.constants) + 1}'
      self.constants[name] = array
      self.values[name] = Value(array.shape, str(array.dtype))
    return self.known[key]

  def add(self, primitive: str, inputs: Iterable[str], shape: Shape, dtype: str, **params: Any) -> str:
    """A further step; returns the name of its result. A step that is there already is not made twice."""
    inputs = tuple(inputs)
    if primitive in FOLDED and inputs[0] in self.constants:
      return self.constant(FOLDED[primitive](self.constants[inputs[0]], **params))
    if primitive in ELEMENTWISE:
      inputs = self._narrow(inputs, shape)
    key = primitive, inputs, dtype, *sorted(params.items())
    if key not in self.known:
      name = self.known[key] = f'v{len(self.known) + 1}'
      self.values[name] = Value(tuple(shape), dtype)
      self.steps[name] = Step(primitive, inputs, name, params)
    return self.known[key]

  def _narrow(self, inputs: tuple[str, ...], shape: Shape) -> tuple[str, ...]:
    """The operands as they were before they were broadcast, where the step would broadcast them itself."""
    for i, name in enumerate(inputs):
      rest = [self.shape(n) for j, n in enumerate(inputs) if j != i]
      for narrower in self._narrower(name):
        if broadcast([*rest, self.shape(narrower)]) == tuple(shape):
          inputs = (*inputs[:i], narrower, *inputs[i + 1 :])
          break
    return inputs

  def _narrower(self, name: str) -> list[str]:
    """What could stand for an operand, the smallest first."""
    if name in self.constants:
      array = self.constants[name]
      leading = next((i for i, n in enumerate(array.shape) if n != 1), array.ndim)
      same = [array.flat[0]] if array.ndim and self.scalar(name) is not None else []
      return [self.constant(a) for a in [*same, *([array.reshape(array.shape[leading:])] if leading else [])]]
    step = self.step(name, 'broadcast_to', 'expand_dims')
    if step is None:
      return []
    (source,), leading = step.inputs, range(len(step.params.get('axes', ())))
    fits = step.primitive == 'broadcast_to' or step.params['axes'] == tuple(leading)
    return [*self._narrower(source), source] if fits else []


def broadcast(shapes: Iterable[Shape]) -> Shape | None:
  """The shape that arrays of `shapes` have together, as NumPy broadcasts; None where they do not fit."""
  shapes = list(shapes)
  rank = max(map(len, shapes))
  columns = zip(*((1,) * (rank - len(s)) + tuple(s) for s in shapes), strict=True)
  sizes = [{d for d in column if d != 1} for column in columns]
  return None if any(len(s) > 1 for s in sizes) else tuple(s.pop() if s else 1 for s in sizes)


def needed(graph: Graph) -> list[Step]:
  """The steps on which the outputs depend, in order."""
  wanted, steps = set(graph.outputs.values()), []
  for step in reversed(graph.steps.values()):
    if step.output in wanted:
      steps.append(step)
      wanted.update(step.inputs)
  return steps[::-1]
