"""Maths that several methods share, elementwise or an example at a time; no reduction over the batch."""

import functools
import math
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.types import Array

RULED_OUT = -1e30  # at or below this a logit is a mask: -inf, -1e30 and the least float are in use


def ruled_out(logits: Array) -> Array:
  """Where a class has no chance at all, at any temperature: bool of the shape of the logits."""
  return logits <= RULED_OUT


def zero_masked(logits: Array) -> Array:
  """The logits with 0 for a class that is ruled out, which then adds nothing to a sum."""
  return jnp.where(ruled_out(logits), 0, logits)


def both_masked(a: Array, b: Array) -> tuple[Array, Array]:
  """Two logits with 0 where both rule the class out, so that their difference there is 0.

  Where one alone has -inf the difference is infinite, as it should be.
  """
  out = ruled_out(a) & ruled_out(b)
  return jnp.where(out, 0, a), jnp.where(out, 0, b)


def divide(logits: Array, temperature: float | Array) -> Array:
  """logits / T, where a class that is ruled out stays so and has no gradient by T."""
  out = ruled_out(logits)
  return jnp.where(out, jax.lax.stop_gradient(logits), jnp.where(out, 0, logits) / temperature)


def soften(logits: Array, temperature: float | Array) -> Array:
  """(logits - the largest) / T, for softmax, which is the same for logits / T.

  Logits of 1e4 over a dynamic T of 1e-6 are rounded by 1000: without the shift, a compiler that writes the
  division in two ways gets an exponential above 1.
  """
  top = jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
  return divide(logits - jnp.where(jnp.isinf(top), 0, top), temperature)


def expected(p: Array, values: Array) -> Array:
  """Σ p · values over the last axis, 0 where p is 0, whatever the value is there; a NaN stays one."""
  return jnp.sum(p * jnp.where(p == 0, 0, values), -1)


def kl(teacher_logits: Array, student_logits: Array, temperature: float | Array = 1.0) -> Array:
  """KL(softmax(teacher / T) || softmax(student / T)), `[..., C] -> [...]`, with no T² factor.

  A class to which the teacher gives 0 adds 0, even at a logit of -inf of the student. One of -inf where
  the teacher gives more makes it infinite.
  """
  log_p = jax.nn.log_softmax(soften(teacher_logits, temperature))
  log_q = jax.nn.log_softmax(soften(student_logits, temperature))
  return expected(jnp.exp(log_p), log_p - log_q)


def total(values: Iterable[Array]) -> Array:
  """The sum of one or more arrays, elementwise."""
  return functools.reduce(operator.add, values)


def smooth_l1(difference: Array) -> Array:
  """Huber's loss with beta 1, elementwise."""
  a = jnp.abs(difference)
  return jnp.where(a < 1, 0.5 * a * a, a - 0.5)


def flatten(x: Array) -> Array:
  """`[B, ...] -> [B, D]`."""
  return x.reshape(x.shape[0], -1)


def standardise(logits: Array) -> Array:
  """Mean 0 and standard deviation 1 over the classes (Sun et al., 2403.01427, algorithm 1).

  The deviation divides by C - 1 and gets 1e-7 added, as in the authors' code. A class that is ruled
  out stays so, and is none of the C.
  """
  out = ruled_out(logits)
  n = jnp.sum(~out, -1, keepdims=True)
  mean = jnp.sum(jnp.where(out, 0, logits), -1, keepdims=True) / jnp.maximum(n, 1)
  centred = jnp.where(out, 0, logits - mean)
  variance = jnp.sum(centred**2, -1, keepdims=True) / jnp.maximum(n - 1, 1)
  flat = variance == 0  # equal logits stay 0, with a gradient that is finite
  scaled_ = centred / jnp.where(flat, 1, jnp.sqrt(jnp.where(flat, 1, variance)) + 1e-7)
  return jnp.where(out, jax.lax.stop_gradient(logits), scaled_)


def soft_cross_entropy(
  teacher_logits: Array, student_logits: Array, temperature: float | Array = 1.0
) -> Array:
  """-Σ softmax(teacher / T) · log softmax(student / T), `[..., C] -> [...]`, with no T² factor."""
  p = jax.nn.softmax(soften(teacher_logits, temperature))
  return -expected(p, jax.nn.log_softmax(soften(student_logits, temperature)))


def without_class(logits: Array, label: Array) -> Array:
  """`[B, C]` with so low a logit at each label that its softmax is 0."""
  out = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
  return jnp.where(out, jnp.finfo(logits.dtype).min / 2, logits)


def two_way(logits: Array, label: Array) -> Array:
  """`[B, 2]`: the logit of each label's class, and the log of the sum of all others' exponentials."""
  target = jnp.take_along_axis(logits, label[:, None], -1)[:, 0]
  return jnp.stack([target, jax.nn.logsumexp(without_class(logits, label), -1)], -1)


def largest(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
  """The largest absolute value along the axes, by default all, kept as axes of 1, with no gradient.

  1 where it is 1e-30 or less, of which a gradient would overflow, and where it is infinite.
  """
  top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis, keepdims=True))
  return jnp.where((top <= 1e-30) | jnp.isinf(top), 1, top)


def scaled(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
  """`x` over `largest`, so that squares neither overflow nor vanish.

  For what does not depend on the scale of `x`, whose gradient is the same with the scale as a constant.
  """
  return x / largest(x, axis)


def unit(x: Array) -> Array:
  """`x` at length 1 along its last axis; one of less than about 1e-30 is zero, with a gradient of 0."""
  x = scaled(x, -1)
  square = jnp.sum(x * x, -1, keepdims=True)
  none = square == 0
  return jnp.where(none, 0, x * jax.lax.rsqrt(jnp.where(none, 1, square)))


def similarities(x: Array, pairs: Array) -> Array:
  """The Gram matrix F·Fᵀ of features `[B, ...]`, flattened, each row at length 1 (1907.09682, equation 1).

  Args:
    x: the features.
    pairs: `[B, B]`, 0 for a pair with padding, which adds nothing to a row.
  """
  x = scaled(flatten(x))
  return unit(jnp.matmul(x, x.T, precision='highest') * pairs)


def log_affinity(a: Array, b: Array, scale: Array, mask: Array) -> Array:
  """log softmax over j of scale · a_i·b_j, `[B, B]`; no row gives anything to padding (`mask` 0)."""
  z = scale * jnp.matmul(a, b.T, precision='highest')  # a scale of 100 would show bfloat16's error
  return jax.nn.log_softmax(jnp.where(mask > 0, z, jnp.finfo(z.dtype).min), -1)


def clip_info_nce(image: Array, text: Array, scale: Array, mask: Array) -> Array:
  """CLIP's loss of each pair `[B]`: image to text and text to image, halved (arXiv 2103.00020).

  Args:
    image: `[B, D]`, of length 1.
    text: `[B, D]`, of length 1; row i belongs to image i.
    scale: of the cosines, the exponential of CLIP's parameter.
    mask: `[B]`, 0 for padding.
  """
  both = log_affinity(image, text, scale, mask), log_affinity(text, image, scale, mask)
  return -0.5 * total(jnp.diagonal(x) for x in both)


def log_likelihood(logits: Array, tokens: Array) -> Array:
  """log softmax of `[..., V]` at the tokens `[...]`; a negative token is read as token 0."""
  chosen = jnp.maximum(tokens, 0)[..., None]
  return jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, -1)[..., 0]


def log_distributions(student: Array, teacher: Array, temperature: float = 1.0) -> tuple:
  """(log q, log p, allowed), each `[..., V]`, of the student's and the teacher's logits.

  A token that either rules out is not allowed: it takes no part in a divergence. Its logs are finite
  all the same, so that no NaN gets into a gradient.
  """

  def logs(z):
    return jnp.where(ruled_out(z), RULED_OUT, jax.nn.log_softmax(soften(z, temperature)))

  return logs(student), logs(teacher), ~(ruled_out(student) | ruled_out(teacher))


def log_mixture(log_a: Array, log_b: Array, share: float | Array) -> Array:
  """log(share · a + (1 - share) · b), elementwise; `share` is a number from 0 to 1, or an array of them."""
  if not isinstance(share, (int, float)):
    return jnp.logaddexp(log_a + jnp.log(share), log_b + jnp.log1p(-share))
  if share in (0, 1):
    return log_a if share == 1 else log_b
  return jnp.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def divergence(log_a: Array, log_b: Array, allowed: Array) -> Array:
  """KL(a || b) of log-probabilities over the allowed entries, `[..., V] -> [...]`."""
  return jnp.sum(jnp.where(allowed, jnp.exp(log_a) * (log_a - log_b), 0), -1)


def norm(x: Array, axis: int | None = -1) -> Array:
  """The L2 norm of `x` along an axis, or of all of it; a norm of 0 has a gradient of 0."""
  top = largest(x, axis)  # the squares of large entries would overflow
  square = jnp.sum(jnp.square(x / top), axis, keepdims=True)
  none = square == 0  # and not > 0: a NaN stays one
  return jnp.squeeze(top * jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, square))), axis)


def gap(a: Array, b: Array) -> Array:
  """a - b of arrays that may have overflowed: infinite where either is, and not NaN where both are."""
  return jnp.where(jnp.isinf(a) & jnp.isinf(b), jnp.inf, a - b)


def average_to(x: Array, size: tuple[int, ...]) -> Array:
  """Averages the axes after the batch to `size`, over windows as even as whole positions allow.

  Window i of m over n positions runs from floor(i n / m) to ceil((i + 1) n / m), as in adaptive
  average pooling: `[B, H, W, C]` and (h, w) give `[B, h, w, C]`.
  """
  for axis, m in enumerate(size, 1):
    n = x.shape[axis]
    if m == n:
      continue
    i, j = np.arange(m)[:, None], np.arange(n)
    inside = (j >= i * n // m) & (j < -(-(i + 1) * n // m))
    weights = jnp.asarray(inside / inside.sum(1, keepdims=True), x.dtype)
    x = jnp.moveaxis(jnp.tensordot(x, weights, ((axis,), (1,)), precision='highest'), -1, axis)
  return x


def to_one_size(a: Array, b: Array) -> tuple[Array, Array]:
  """Two maps `[B, H, W, C]`, the larger one averaged down to the smaller, axis by axis."""
  size = tuple(min(n) for n in zip(a.shape[1:3], b.shape[1:3], strict=True))
  return average_to(a, size), average_to(b, size)
