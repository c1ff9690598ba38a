"""Layers that JAX writes as several primitives, as the one step that the formats have for them.

| step | what it is |
|---|---|
| reduce_mean | over axes, which go unless `keepdims` |
| avg_pool | windows over `[B, *spatial, C]`, padding counted |
| clamp | least, x, most |
| softmax, gelu | as in jax.nn |
| layer_norm | x, scale and, at will, bias; over the last axis |
| batch_norm | x, mean, var, scale and, at will, bias; each of the last axis |
| conv | with a bias `[O]` as its third operand |
"""

import math
from collections import Counter
from typing import Any

import numpy as np

from kdjax.export.graph import Graph, Step, needed

MEAN = ('div', ('reduce_sum', 'x'), 'count')
POOL = ('div', ('sum_pool', 'x'), 'count')
LIMITED = ('min', ('max', 'x', 'least'), 'most')
SHIFTED = ('sub', 'x', ('reduce_max', 'x'))
SOFTMAX = ('div', ('exp', SHIFTED), ('reduce_sum', ('exp', SHIFTED)))
GELU = ('mul', ('mul', 0.5, 'x'), ('erfc', ('mul', ('neg', 'x'), 0.5**0.5)))
CUBIC = ('add', 'x', ('mul', 0.044715, ('pow', 'x', 3.0)))
TANH_GELU = ('mul', 'x', ('mul', 0.5, ('add', 1.0, ('tanh', ('mul', (2 / math.pi) ** 0.5, CUBIC)))))
NORM = ('mul', ('sub', 'x', 'mean'), ('mul', ('rsqrt', ('add', 'var', 'epsilon')), 'scale'))
FAST_VAR = ('max', 0.0, ('sub', ('reduce_mean', ('square', 'x')), ('square', ('reduce_mean', 'x'))))
VAR = ('reduce_mean', ('square', ('sub', 'x', ('reduce_mean', 'x'))))
COMMUTATIVE = ('add', 'mul', 'max', 'min')
ONES = ('expand_dims', 'squeeze', 'broadcast_to')


def recognise(graph: Graph) -> None:
  """Puts one step in the place of the last of those that match; the others stay, used or not."""
  uses = Counter(name for step in needed(graph) for name in step.inputs)
  for step in list(graph.steps.values()):
    shape = graph.shape(step.output)
    for pattern, rule in RULES:
      bound = match(graph, pattern, step.output) if pattern[0] == step.primitive else None
      if bound is not None and (new := rule(graph, bound, uses, shape)) is not None:
        primitive, inputs, params = new
        graph.steps[step.output] = Step(primitive, tuple(inputs), step.output, params)
        break
    else:
      _join_numbers(graph, step, uses)


def match(graph: Graph, pattern: Any, name: str, bound: dict | None = None) -> dict[str, Any] | None:
  """What the words of a pattern stand for, if the value is computed so.

  Args:
    graph: where the value is.
    pattern: a word, for any value, at every place the same; a number; or a tuple of a primitive and the
      patterns of its operands, between which axes of size 1 may come and go.
    name: of the value.
    bound: what is known already.

  Returns:
    word -> name; primitive -> the steps of it that matched; None where the value is computed otherwise.
  """
  bound = {} if bound is None else bound
  if isinstance(pattern, str):
    return bound | {pattern: name} if bound.get(pattern, name) == name else None
  if isinstance(pattern, float):
    number = graph.scalar(name)
    return bound if number is not None and math.isclose(number, pattern, rel_tol=1e-6) else None
  step = graph.step(name, pattern[0])
  if step is None:
    view = graph.step(name, *ONES)
    return match(graph, pattern, view.inputs[0], bound) if view else None
  if len(step.inputs) != len(pattern) - 1:
    return None
  bound = bound | {step.primitive: (*bound.get(step.primitive, ()), step)}
  for order in (1, -1)[: 1 + (step.primitive in COMMUTATIVE)]:
    matched: dict | None = bound
    for part, operand in zip(pattern[1:], step.inputs[::order], strict=True):
      matched = match(graph, part, operand, matched) if matched is not None else None
    if matched is not None:
      return matched
  return None


def _join_numbers(graph: Graph, last: Step, uses: Counter) -> None:
  """Puts x * a + b in the place of three steps or more that add and multiply constants, such as a
  normalization of pixels."""
  chain: list[tuple[Step, int]] = []  # the last first, with the place of the operand that is no constant
  step: Step | None = last
  while step and step.primitive in ('add', 'sub', 'mul', 'div') and graph.dtype(step.output) == 'float32':
    places = [i for i in (0, 1) if step.inputs[1 - i] in graph.constants]
    if not places or (step.primitive == 'div' and places != [0]) or (chain and uses[step.output] != 1):
      break
    chain.append((step, places[0]))
    step = graph.steps.get(step.inputs[places[0]])
  if len(chain) < 3 or any(graph.shape(s.output) != graph.shape(last.output) for s, _ in chain):
    return
  a, b = np.ones(()), np.zeros(())
  for step, place in reversed(chain):
    number = graph.constants[step.inputs[1 - place]].astype(np.float64)
    if step.primitive in ('mul', 'div'):
      number = number if step.primitive == 'mul' else 1 / number
      a, b = a * number, b * number
    elif step.primitive == 'add':
      b = b + number
    else:
      a, b = (a, b - number) if place == 0 else (-a, number - b)
  (first, place), (second, _) = chain[-1], chain[-2]
  product = first.inputs[place], graph.constant(a.astype(np.float32))
  total = second.output, graph.constant(b.astype(np.float32))
  graph.steps[second.output] = Step('mul', product, second.output, {})
  graph.steps[last.output] = Step('add', total, last.output, {})


def _vector(graph: Graph, name: str, size: Any) -> str | None:
  """What a value `[..., 1, C]` was before it got the axes of size 1, where it was `[C]`."""
  while graph.shape(name) != (size,):
    step = graph.step(name, *ONES)
    if step is None:
      return None
    (name,) = step.inputs
  return name


def _mean(graph, bound, uses, shape):
  total, whole = bound['reduce_sum'][0], graph.shape(bound['x'])
  axes = total.params['axes']
  kept = tuple(1 if i in axes else n for i, n in enumerate(whole))
  count = math.prod(whole[axis] for axis in axes)
  if graph.scalar(bound['count']) != count or shape not in (kept, graph.shape(total.output)):
    return None
  return 'reduce_mean', [bound['x']], {'axes': axes, 'keepdims': shape == kept}


def _pool(graph, bound, uses, shape):
  pool = bound['sum_pool'][0]
  same = graph.scalar(bound['count']) == math.prod(pool.params['window']) and shape == graph.shape(
    pool.output
  )
  return ('avg_pool', [bound['x']], pool.params) if same else None


def _limited(graph, bound, uses, shape):
  numbers = None not in (graph.scalar(bound['least']), graph.scalar(bound['most']))
  same = numbers and shape == graph.shape(bound['x'])
  return ('clamp', [bound['least'], bound['x'], bound['most']], {}) if same else None


def _one_axis(bound, *primitives):
  """The axis over which all reductions go; None where there are several."""
  axes = {step.params['axes'] for p in primitives for step in bound[p]}
  (first, *more) = axes
  return first[0] if not more and len(first) == 1 else None


def _softmax(graph, bound, uses, shape):
  axis = _one_axis(bound, 'reduce_max', 'reduce_sum')
  same = axis is not None and shape == graph.shape(bound['x'])
  return ('softmax', [bound['x']], {'axis': axis}) if same else None


def _gelu(graph, bound, uses, shape):
  same = shape == graph.shape(bound['x'])
  return ('gelu', [bound['x']], {'approximate': 'tanh' in bound}) if same else None


def _norm(graph, bound, uses, shape):
  x, size, epsilon = bound['x'], shape[-1:], graph.scalar(bound['epsilon'])
  same = size and shape == graph.shape(x) and epsilon is not None
  if not same or (scale := _vector(graph, bound['scale'], *size)) is None:
    return None
  params = {'epsilon': epsilon}
  mean, var = (_vector(graph, bound[k], *size) for k in ('mean', 'var'))
  if mean and var:
    return 'batch_norm', [x, mean, var, scale], params
  for pattern in VAR, FAST_VAR:
    moments = match(graph, pattern, bound['var'], {'x': x})
    moments = match(graph, ('reduce_mean', 'x'), bound['mean'], moments) if moments else None
    if moments and _one_axis(moments, 'reduce_mean') == len(shape) - 1:
      return 'layer_norm', [x, scale], params
  return None


def _biased(primitive):
  def rule(graph, bound, uses, shape):
    """The bias becomes the last operand, where it is one for each channel."""
    step = bound[primitive][0]
    bias = _vector(graph, bound['bias'], shape[-1]) if shape == graph.shape(step.output) else None
    return (primitive, [*step.inputs, bias], step.params) if bias and uses[step.output] == 1 else None

  return rule


RULES = (
  (MEAN, _mean),
  (POOL, _pool),
  (LIMITED, _limited),
  (SOFTMAX, _softmax),
  (GELU, _gelu),
  (TANH_GELU, _gelu),
  (NORM, _norm),
  (('add', ('layer_norm', 'x', 'scale'), 'bias'), _biased('layer_norm')),
  (('add', ('batch_norm', 'x', 'mean', 'var', 'scale'), 'bias'), _biased('batch_norm')),
  (('add', ('conv', 'x', 'w'), 'bias'), _biased('conv')),
)
