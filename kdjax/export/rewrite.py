"""Operations of a program replaced by others of the same result, which a runtime knows better."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend import core

# `(inputs, params) -> outputs`, or None to leave the operation as it is.
Rule = Callable[[list[Any], Mapping[str, Any]], list[Any] | None]
CALLS = {'jit': 'jaxpr', 'pjit': 'jaxpr', 'closed_call': 'call_jaxpr', 'custom_jvp_call': 'call_jaxpr'}
CALLS |= {'custom_vjp_call': 'call_jaxpr', 'custom_vjp_call_jaxpr': 'fun_jaxpr', 'remat2': 'jaxpr'}
CALLS |= {'remat': 'jaxpr', 'checkpoint': 'jaxpr'}


def rewritten(function: Callable, rules: Mapping[str, Rule]) -> Callable:
  """`function` of arrays in trees with some of its primitives replaced.

  Args:
    function: pure, of any arguments.
    rules: name of a primitive, or 'jit:' and the name of a jitted function, such as 'jit:gelu' -> its rule.
  """

  def call(*args):
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    outputs = _run(closed.jaxpr, closed.consts, jax.tree.leaves(args), rules)
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

  return call


def _run(jaxpr, constants, inputs, rules):
  values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

  def read(x):
    return x.val if isinstance(x, core.Literal) else values[x]

  for equation in jaxpr.eqns:
    name, params, arrays = equation.primitive.name, equation.params, [read(x) for x in equation.invars]
    rule = rules.get(f'jit:{params["name"]}' if name in ('jit', 'pjit') else name)
    outputs = rule(arrays, params) if rule else None
    if outputs is None and name in CALLS:
      inner = params[CALLS[name]]
      closed = isinstance(inner, core.ClosedJaxpr)
      outputs = _run(inner.jaxpr if closed else inner, inner.consts if closed else (), arrays, rules)
    elif outputs is None:
      bound = equation.primitive.get_bind_params(params)
      functions, settings = bound if isinstance(bound, tuple) else ((), bound)  # JAX before 0.10
      scope = str(equation.source_info.name_stack)
      # What is in a format's own file is named after the scopes.
      with jax.named_scope(scope) if scope else contextlib.nullcontext():
        outputs = equation.primitive.bind(*functions, *arrays, **settings)
      outputs = outputs if equation.primitive.multiple_results else [outputs]
    values.update(zip(equation.outvars, outputs, strict=True))
  return [read(x) for x in jaxpr.outvars]
