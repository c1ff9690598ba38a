"""The layers of a model in NumPy; those that a model uses are copied into the file that is written for it."""

import numpy as np


def conv(x, w, strides, padding, dilation, groups=1):
  """x [B, *spatial, C] and w [*window, C / groups, O]: the sum over the window of shifted x times w."""
  if groups > 1 and groups == x.shape[-1] == w.shape[-1]:  # depthwise
    product, w = np.multiply, w[..., 0, :]
  elif groups > 1:
    parts = zip(np.split(x, groups, axis=-1), np.split(w, groups, axis=-1), strict=True)
    return np.concatenate([conv(a, b, strides, padding, dilation) for a, b in parts], axis=-1)
  else:
    product = np.matmul
  shifted = windows(x, w.shape[: len(strides)], strides, padding, dilation)
  return sum(product(part, w[tap]) for tap, part in shifted)


def windows(x, window, strides, padding, dilation, fill=0.0):
  """For each place in the window, the elements of x [B, *spatial, C] that come to lie there."""
  x = np.pad(x, [(0, 0), *padding, (0, 0)], constant_values=fill) if np.any(padding) else x
  spans = [d * (k - 1) for k, d in zip(window, dilation, strict=True)]
  for tap in np.ndindex(*window):
    starts = [t * d for t, d in zip(tap, dilation, strict=True)]
    ends = [start + n - span for start, n, span in zip(starts, x.shape[1:-1], spans, strict=True)]
    yield tap, x[(slice(None), *map(slice, starts, ends, strides))]


def max_pool(x, window, strides, padding):
  """The largest element of each window over x [B, *spatial, C]."""
  shifted = windows(x, window, strides, padding, [1] * len(window), fill=-np.inf)
  return np.maximum.reduce([part for _, part in shifted])


def sum_pool(x, window, strides, padding):
  """The sum of each window over x [B, *spatial, C]."""
  return sum(part for _, part in windows(x, window, strides, padding, [1] * len(window)))


def avg_pool(x, window, strides, padding):
  """The mean of each window over x [B, *spatial, C], with the zeros around it."""
  return sum_pool(x, window, strides, padding) / np.float32(np.prod(window))


def batch_norm(x, mean, var, scale, bias=0, epsilon=1e-5):
  """x [..., C] with the mean and variance [C] of the training."""
  return (x - mean) * (scale / np.sqrt(var + epsilon)) + bias


def layer_norm(x, scale, bias=0, epsilon=1e-6):
  """x [..., C] with mean 0 and variance 1 over its last axis, times scale [C], plus bias [C]."""
  x = x - x.mean(axis=-1, keepdims=True)
  return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + epsilon) * scale + bias


def softmax(x, axis):
  x = np.exp(x - x.max(axis=axis, keepdims=True))
  return x / x.sum(axis=axis, keepdims=True)


def gelu(x):
  return 0.5 * x * erfc(-(0.5**0.5) * x)


def gelu_tanh(x):
  return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x * x * x)))


def erfc(x):
  """1 - erf(x), up to a relative error of 1.2e-7: the Chebyshev fit of Numerical Recipes, section 6.2."""
  fit = [0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196]
  t = 1 / (1 + 0.5 * np.abs(x.astype(np.float64)))
  y = t * np.exp(np.polyval([*fit, 1.00002368, -1.26551223], t) - np.square(x))
  return np.where(x < 0, 2 - y, y).astype(x.dtype)


def take_along(x, indices, axis):
  """y[i, ..., j] = x[i, ..., indices[i, ..., j]], where i runs over the axes before `axis` of both."""
  flat = indices.reshape(*x.shape[:axis], -1, *[1] * (x.ndim - axis - 1))
  return np.take_along_axis(x, flat, axis).reshape(*indices.shape, *x.shape[axis + 1 :])
