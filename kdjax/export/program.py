"""A model as one function of arrays, which every format writes in its own way."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import export
from jax.interpreters import partial_eval

from kdjax.export.alone import PRESENT, plain
from kdjax.nn import conv
from kdjax.nn.missing_modality import hide
from kdjax.types import NO_INPUT, modalities

Spec = tuple[tuple[int, ...], str]  # shape of one example, without the axis of the batch, and dtype
name = plain  # of an input or output in formats that allow no '/'


class Program(NamedTuple):
  """The forward pass of a model, for any number of examples at a time.

  Attributes:
    apply: `(weights, inputs) -> outputs`, a pure function of dicts of arrays.
    weights: name -> array, such as 'params/head/kernel'.
    inputs: key -> `Spec`, in the order in which a runtime takes them; '<modality>/present' f32 [] is 0 for
      an example without the modality.
    outputs: tap -> `Spec`, in the order in which a runtime gives them.
  """

  apply: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, jax.Array]]
  weights: Mapping[str, np.ndarray]
  inputs: Mapping[str, Spec]
  outputs: Mapping[str, Spec]

  def __call__(self, **inputs) -> dict[str, jax.Array]:
    """The outputs [B, ...] for inputs [B, ...]."""
    return self.apply(self.weights, inputs)


def make(
  apply: Callable,
  variables: Mapping,
  example: Mapping[str, Spec],
  taps: tuple[str, ...],
  several: bool = False,
) -> Program:
  """The program of a model.

  Args:
    apply: `(variables, batch) -> taps`, as `Model.apply` evaluates.
    variables: of the model.
    example: batch key -> `Spec`; those of training and those that the taps do not depend on are left out.
    taps: those that the program gives, of which the model has at least one.
    several: whether examples may lack a modality: the program then takes '<modality>/present'.
  """
  weights = {k: np.asarray(v) for k, v in flatten_dict(variables, sep='/').items()}
  inputs = {k: v for k, v in sorted(example.items()) if k not in NO_INPUT}
  names = modalities(inputs) if several else []
  inputs |= {f'{m}{PRESENT}': ((), 'float32') for m in names if f'{m}{PRESENT}' not in inputs}

  def forward(weights, arrays):
    batch = {k: v for k, v in arrays.items() if k.removesuffix(PRESENT) not in names or k in example}
    for name in names:
      batch = hide(batch, name, arrays[f'{name}{PRESENT}'])
    with conv.portable(True):
      outputs = apply(unflatten_dict(dict(weights), sep='/'), batch)
    return {k: outputs[k] for k in taps if k in outputs}

  shaped = weights, arguments(inputs, 1)
  jaxpr, shapes = jax.make_jaxpr(forward, return_shape=True)(*shaped)
  _, used = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.out_avals))
  paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(shaped)]
  read = {path[-1].key for path, is_used in zip(paths, used, strict=True) if is_used}
  inputs = {k: v for k, v in inputs.items() if k in read}
  return Program(forward, weights, inputs, {k: (v.shape[1:], str(v.dtype)) for k, v in shapes.items()})


def arguments(inputs: Mapping[str, Spec], rows: Any) -> dict[str, jax.ShapeDtypeStruct]:
  """key -> shape and dtype of `rows` examples, a number or a symbol."""
  return {k: jax.ShapeDtypeStruct((rows, *shape), jnp.dtype(dtype)) for k, (shape, dtype) in inputs.items()}


def any_rows() -> Any:
  """The symbol for any number of examples."""
  return export.symbolic_shape('b')[0]
