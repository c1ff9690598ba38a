"""What makes each golden vector: one file a family of methods, each with `CASES`.

A case works on the arrays as they are stored (torch layout: NCHW maps, OIHW kernels, [out, in]
matrices) and transposes inside, so that gradients come out in the stored layout too.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Case(NamedTuple):
  """One function of a vector's arrays.

  Attributes:
    outputs: `{key: array} -> {key: array}`, the stored arrays that it makes again.
    loss: the key among them that is differentiated.
    grads: gradient key -> the key of the array that it is the gradient of.
    float32: the tolerance in float32; over 1e-5 only with a reason beside it.
  """

  outputs: Callable
  loss: str = 'loss'
  grads: Mapping[str, str] = {}
  float32: float = 1e-5


def scalar(loss: str, function: Callable, *wrt: str, float32: float = 1e-5) -> Case:
  """A case with one loss; its gradients are named `grad.<array>.<case>`, or `grad.<array>`."""
  name = loss.removeprefix('loss').removeprefix('.')
  grads = {f'grad.{w}.{name}' if name else f'grad.{w}': w for w in wrt}
  return Case(lambda v: {loss: function(v)}, loss, grads, float32)


def value(method, s, t, batch=None, params=None, stats=None, step=0):
  """What a method's loss comes to, as one number."""
  (total, count), _ = method.loss(
    params or {}, stats or {}, s, t, batch or {}, step=step, rng=jax.random.key(0)
  )
  return total / jnp.maximum(count, 1)


def nhwc(x):
  return jnp.transpose(x, (0, 2, 3, 1))


def kernel(w):
  """A torch weight as Flax has it: OIHW -> HWIO, [out, in] -> [in, out]."""
  return jnp.transpose(w, (2, 3, 1, 0)) if w.ndim == 4 else w.T
