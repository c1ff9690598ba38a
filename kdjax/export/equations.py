"""The forward pass of a model as a flat list of steps, for the formats that kdjax writes itself."""

from typing import Any

import jax
import numpy as np
from jax.extend import core

from kdjax.export import canonical, patterns
from kdjax.export.graph import ELEMENTWISE, Graph, Value, needed
from kdjax.export.program import Program, arguments
from kdjax.export.rewrite import CALLS
from kdjax.export.uniform import uniform

UNIFORM = ELEMENTWISE | {'select_n', 'convert_element_type'}
OF_SYMBOL = 'dim_as_value'  # the symbol of the number of examples as a number
LOOPS = ('scan', 'while', 'cond')


def equations(program: Program, rows: Any, form: str = 'export') -> Graph:
  """The steps of `program.apply`: calls inlined, constants computed, patterns named, the unused left out.

  Inputs and weights keep their names, 'image' and 'params/head/kernel'.

  Args:
    program: a model.
    rows: how many examples: a number, or `any_rows()`, whose symbol is then in the shapes.
    form: the format that is written, for errors.

  Raises:
    KdjaxError: if the model has a loop, or a primitive of a kind that has no translation.
  """
  inputs = arguments(program.inputs, rows)
  traced, out = jax.make_jaxpr(program.apply, return_shape=True)(dict(program.weights), inputs)
  names = [*sorted(program.weights), *sorted(inputs)]  # as JAX orders the keys of a dict
  graph = Graph(weights=frozenset(program.weights), form=form)
  graph.values |= {n: _value(v) for n, v in zip(names, traced.jaxpr.invars, strict=True)}
  results = _inline(graph, traced.jaxpr, traced.consts, names)
  graph.outputs = dict(zip(sorted(out), results, strict=True))
  patterns.recognise(graph)
  return _in_order(graph, program)


def _value(variable) -> Value:
  return Value(tuple(variable.aval.shape), str(variable.aval.dtype))


def _inline(graph: Graph, jaxpr, consts, inputs: list[str]) -> list[str]:
  """Adds the equations of a jaxpr and of those that it calls; returns the names of its results."""
  names = dict(zip(jaxpr.invars, inputs, strict=True))
  names |= {v: graph.constant(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

  def read(atom):
    return (
      graph.constant(np.asarray(atom.val, _value(atom).dtype))
      if isinstance(atom, core.Literal)
      else names[atom]
    )

  for equation in jaxpr.eqns:
    primitive, operands = equation.primitive.name, [read(v) for v in equation.invars]
    out = [_value(v) for v in equation.outvars]
    if primitive in CALLS:
      inner = equation.params[CALLS[primitive]]
      results = _inline(graph, getattr(inner, 'jaxpr', inner), getattr(inner, 'consts', ()), operands)
    elif primitive != OF_SYMBOL and all(n in graph.constants for n in operands) and _known(out):
      results = _computed(graph, equation, operands)
    elif primitive in UNIFORM and all(graph.scalar(n) is not None for n in operands):
      numbers = [graph.constant(np.asarray(graph.scalar(n), graph.dtype(n))) for n in operands]
      (number,) = _computed(graph, equation, numbers)
      results = [uniform(graph, graph.constants[number], out[0])]
    elif primitive in LOOPS:
      raise graph.unsupported(primitive, 'is a loop or a branch')
    else:
      results = canonical.convert(graph, primitive, operands, out, dict(equation.params))
    names |= dict(zip(equation.outvars, results, strict=True))
  return [read(v) for v in jaxpr.outvars]


def _known(values: list[Value]) -> bool:
  return all(isinstance(size, int) for value in values for size in value.shape)


def _computed(graph: Graph, equation, operands: list[str]) -> list[str]:
  """The results of an equation of constants."""
  arrays = equation.primitive.bind(*(graph.constants[n] for n in operands), **equation.params)
  arrays = arrays if equation.primitive.multiple_results else [arrays]
  if not all(isinstance(a.dtype, np.dtype) for a in arrays):
    raise graph.unsupported(equation.primitive.name, 'makes a key of random numbers')
  return [graph.constant(a) for a in arrays]


def _in_order(graph: Graph, program: Program) -> Graph:
  """The graph with what its outputs need, the results named v1, v2, … and the constants constant/1, …"""
  steps = needed(graph)
  read = {n for s in steps for n in s.inputs} | set(graph.outputs.values())
  names = {n: f'constant/{i + 1}' for i, n in enumerate(n for n in graph.constants if n in read)}
  names |= {s.output: f'v{i + 1}' for i, s in enumerate(steps)}
  values = {
    n: v for n, v in graph.values.items() if n in program.inputs or n in names or n in program.weights
  }
  renamed = [
    s._replace(inputs=tuple(names.get(n, n) for n in s.inputs), output=names[s.output]) for s in steps
  ]
  return Graph(
    {names.get(n, n): v for n, v in values.items()},
    {names[n]: a for n, a in graph.constants.items() if n in names},
    frozenset(n for n in graph.weights if n in read),
    {s.output: s for s in renamed},
    {tap: names.get(n, n) for tap, n in graph.outputs.items()},
    graph.form,
  )
