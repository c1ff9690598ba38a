"""Maths that several methods share. Losses compute in float32 at least; float64 stays float64."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.types import Array, Batch, SumCount


def raise_precision(x: Array) -> Array:
  """`x` in float32 if it is of a narrower type, unchanged otherwise."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def tap(outputs: Mapping, name: str, method: str, whose: str) -> Array:
  """`outputs[name]` at full precision.

  Raises:
    KdjaxError: if there is no such tap; it lists those there are, with their shapes.
  """
  if name not in outputs:
    shapes = {k: f'{k} {list(v.shape)}' for k, v in outputs.items()}
    raise unknown(f'tap of the {whose} in methods.{method}', name, shapes, show=shapes)
  return raise_precision(outputs[name])


def pair(
  s: Mapping, t: Mapping, student: str, teacher: str, method: str, same_shape: bool = True
) -> tuple[Array, Array]:
  """The student's and the teacher's tap, at full precision, the teacher's without gradient.

  Raises:
    KdjaxError: if a tap is not there, or `same_shape` is asked for and the two differ.
  """
  a = tap(s, student, method, 'student')
  b = jax.lax.stop_gradient(tap(t, teacher, method, 'teacher'))
  if same_shape and a.shape != b.shape:
    raise KdjaxError(
      f'{method} cannot pair the student tap {student!r} {list(a.shape)} with the teacher tap '
      f'{teacher!r} {list(b.shape)}: it needs two taps of one shape.'
    )
  return a, b


def example_mask(batch: Batch, like: Array) -> Array:
  """`[B]`: 1 for an example, 0 for padding."""
  mask = batch.get('mask')
  return jnp.ones(like.shape[0], like.dtype) if mask is None else mask.astype(like.dtype)


def mean_over_examples(values: Array, batch: Batch) -> SumCount:
  """`(sum, count)` of per-example values `[B]`, padding left out."""
  mask = example_mask(batch, values)
  return jnp.sum(jnp.where(mask > 0, values, 0) * mask), jnp.sum(mask)


def mean_over_axes(x: Array) -> Array:
  """`[B, ...] -> [B]`, the mean over everything but the batch."""
  return x.reshape(x.shape[0], -1).mean(-1)


def kl(teacher_logits: Array, student_logits: Array, temperature: float | Array = 1.0) -> Array:
  """KL(softmax(teacher / T) || softmax(student / T)), `[..., C] -> [...]`, with no T² factor."""
  log_p = jax.nn.log_softmax(teacher_logits / temperature)
  log_q = jax.nn.log_softmax(student_logits / temperature)
  p = jnp.exp(log_p)
  return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0), -1)


def smooth_l1(difference: Array) -> Array:
  """Huber's loss with beta 1, elementwise."""
  a = jnp.abs(difference)
  return jnp.where(a < 1, 0.5 * a * a, a - 0.5)


def flatten(x: Array) -> Array:
  """`[B, ...] -> [B, D]`."""
  return x.reshape(x.shape[0], -1)
