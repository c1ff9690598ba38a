"""Maths that several methods share, elementwise or an example at a time; no reduction over the batch."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.types import Array


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


def standardise(logits: Array) -> Array:
  """Mean 0 and standard deviation 1 over the classes (Sun et al., 2403.01427, algorithm 1).

  The deviation divides by C - 1 and gets 1e-7 added, as in the authors' code.
  """
  centred = logits - logits.mean(-1, keepdims=True)
  variance = jnp.sum(centred**2, -1, keepdims=True) / max(logits.shape[-1] - 1, 1)
  varies = variance > 0  # equal logits stay 0, with a gradient that is finite
  return centred / jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1)) + 1e-7, 1)


def soft_cross_entropy(
  teacher_logits: Array, student_logits: Array, temperature: float | Array = 1.0
) -> Array:
  """-Σ softmax(teacher / T) · log softmax(student / T), `[..., C] -> [...]`, with no T² factor."""
  p = jax.nn.softmax(teacher_logits / temperature)
  log_q = jax.nn.log_softmax(student_logits / temperature)
  return -jnp.sum(jnp.where(p > 0, p * log_q, 0), -1)


def without_class(logits: Array, label: Array) -> Array:
  """`[B, C]` with so low a logit at each label that its softmax is 0."""
  out = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
  return jnp.where(out, jnp.finfo(logits.dtype).min / 2, logits)


def unit(x: Array) -> Array:
  """`x` at length 1 along its last axis; a zero stays zero, with a gradient of 0."""
  square = jnp.sum(x * x, -1, keepdims=True)
  some = square > 1e-24  # of a shorter one the gradient would overflow
  return jnp.where(some, x * jax.lax.rsqrt(jnp.where(some, square, 1)), 0)


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
  return -0.5 * sum(jnp.diagonal(x) for x in both)


def log_likelihood(logits: Array, tokens: Array) -> Array:
  """log softmax of `[..., V]` at the tokens `[...]`; a negative token is read as token 0."""
  chosen = jnp.maximum(tokens, 0)[..., None]
  return jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, -1)[..., 0]


def log_distributions(student: Array, teacher: Array, temperature: float = 1.0) -> tuple:
  """(log q, log p, allowed), each `[..., V]`, of the student's and the teacher's logits.

  A token that either rules out with a logit of -inf is not allowed: it takes no part in a
  divergence. Its logs are finite all the same, so that no NaN gets into a gradient.
  """

  def logs(z):
    return jnp.where(jnp.isfinite(z), jax.nn.log_softmax(z / temperature), -1e30)

  return logs(student), logs(teacher), jnp.isfinite(student) & jnp.isfinite(teacher)


def log_mixture(log_a: Array, log_b: Array, share: float) -> Array:
  """log(share · a + (1 - share) · b), elementwise; `share` is a number from 0 to 1."""
  if share in (0, 1):
    return log_a if share == 1 else log_b
  return jnp.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def divergence(log_a: Array, log_b: Array, allowed: Array) -> Array:
  """KL(a || b) of log-probabilities over the allowed entries, `[..., V] -> [...]`."""
  return jnp.sum(jnp.where(allowed, jnp.exp(log_a) * (log_a - log_b), 0), -1)


def norm(x: Array, axis: int | None = -1) -> Array:
  """The L2 norm of `x` along an axis, or of all of it; a norm of 0 has a gradient of 0."""
  top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis, keepdims=True))
  top = jnp.where(top > 0, top, 1)  # the squares of large entries would overflow
  square = jnp.sum(jnp.square(x / top), axis, keepdims=True)
  return jnp.squeeze(top * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0), axis)


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
