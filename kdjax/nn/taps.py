"""Taps in, sums and counts out: how a method reads its arrays and reduces its values."""

import math
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.nn import losses
from kdjax.types import Array, Batch, SumCount

WEIGHTS = 'weights/'  # of the taps that are a model's weights, by their paths


def raise_precision(x: Array) -> Array:
  """`x` in float32 if it is of a narrower type, unchanged otherwise."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class RecordingTaps(dict):
  """Taps that record in `names` which of them are read."""

  def __init__(self, taps: Mapping, names: set):
    super().__init__(taps)
    self.names = names

  def __iter__(self):  # else dict(taps) would copy without a record
    return super().__iter__()

  def __getitem__(self, name):
    self.names.add(name)
    return super().__getitem__(name)

  def get(self, name, default=None):
    self.names |= {name} & self.keys()
    return super().get(name, default)

  def items(self):
    return [(name, self[name]) for name in self]

  def values(self):
    return [self[name] for name in self]


def tap(outputs: Mapping, name: str, method: str, model: str) -> Array:
  """`outputs[name]` at full precision.

  Raises:
    KdjaxError: if there is no such tap; it lists the taps, with their shapes.
  """
  matching = expand(outputs, name, method, model)
  if len(matching) > 1:
    raise KdjaxError(
      f'methods.{method} takes one tap of the {model}, and {name!r} matches {", ".join(matching[:4])}'
      f'{", …" if len(matching) > 4 else ""}: name one.'
    )
  return raise_precision(outputs[matching[0]])


def expand(outputs: Mapping, name: str, method: str, model: str) -> list[str]:
  """The taps that a name or a pattern matches, in the order of their names, numbers by value.

  In a pattern `*` stands for any part of a name without '/', `**/` for any modules above. It matches weights
  only where it says 'weights/'.

  Raises:
    KdjaxError: if there is none; it lists the taps, with their shapes.
  """
  if name in outputs:
    return [name]
  shown = [k for k in outputs if WEIGHTS in name or WEIGHTS not in k]
  if '*' in name:
    parts = re.split(r'(\*\*/|\*\*|\*)', name)
    stars = {'**/': '(?:.*/)?', '**': '.*', '*': '[^/]*'}
    pattern = re.compile(''.join(stars.get(p, re.escape(p)) for p in parts))
    matching = [k for k in shown if pattern.fullmatch(k)]
    if matching:
      return sorted(matching, key=lambda k: [int(p) if p.isdigit() else p for p in re.split(r'(\d+)', k)])
  shapes = {k: f'{k} {list(outputs[k].shape)}' for k in shown}
  raise unknown(f'tap of the {model} in methods.{method}', name, shapes, show=shapes)


def pair(
  s: Mapping, t: Mapping, student: str, teacher: str, method: str, same_shape: bool = True
) -> tuple[Array, Array]:
  """The student's and the teacher's tap, at full precision, the teacher's without gradient.

  Raises:
    KdjaxError: if a tap is missing, or the shapes differ despite `same_shape`.
  """
  a = tap(s, student, method, 'student')
  b = jax.lax.stop_gradient(tap(t, teacher, method, 'teacher'))
  if same_shape and a.shape != b.shape:
    raise KdjaxError(
      f'{method} cannot pair the student tap {student!r} {list(a.shape)} with the teacher tap '
      f'{teacher!r} {list(b.shape)}: it needs two taps of one shape.'
    )
  return a, b


def _names(outputs, names, method, model) -> list[str]:
  """The names of taps, patterns filled in."""
  named = (names,) if isinstance(names, str) else names
  return [tap for name in named for tap in (expand(outputs, name, method, model) if '*' in name else [name])]


def stages(
  s: Mapping,
  t: Mapping,
  student: str | tuple[str, ...],
  teacher: str | tuple[str, ...],
  method: str,
  *,
  rank: int | None = 4,
  differ: tuple[int, ...] = (1, 2, 3),
) -> list[tuple[Array, Array]]:
  """The pairs of two tap names, or of two tuples of names, each as of `pair`.

  Args:
    rank: the number of axes, maps `[B, H, W, C]` by default; None for as many as each other.
    differ: the axes on which the two of a pair may differ in size.

  Raises:
    KdjaxError: if there are not as many of each, or two taps do not fit each other.
  """
  students = _names(s, student, method, 'student')
  teachers = _names(t, teacher, method, 'teacher')
  if len(students) != len(teachers):
    raise KdjaxError(
      f'{method} pairs the student taps {list(students)} with the teacher taps {list(teachers)}: '
      'give as many of each.'
    )
  pairs = []
  for name, other in zip(students, teachers, strict=True):
    a, b = pair(s, t, name, other, method, same_shape=False)
    fixed = [i for i in range(a.ndim) if i not in differ and i - a.ndim not in differ]
    if a.ndim != (rank or b.ndim) or a.ndim != b.ndim or any(a.shape[i] != b.shape[i] for i in fixed):
      raise KdjaxError(
        f'{method} cannot pair the student tap {name!r} {list(a.shape)} with the teacher tap {other!r} '
        f'{list(b.shape)}: they need {rank or "as many"} axes each, of one size on the axes {fixed}.'
      )
    pairs.append((a, b))
  return pairs


def towers(outputs: Mapping, names: str | tuple, method: str, model: str, scalars: int = 0) -> list[Array]:
  """The taps of a two-tower model: image and text embedding, `[B, D]` each, then its scalars.

  The teacher's come without gradient.

  Raises:
    KdjaxError: if a tap is missing, their number is wrong, or their shapes do not fit together.
  """
  if isinstance(names, str) or len(names) != 2 + scalars:
    raise KdjaxError(
      f'{method} needs {2 + scalars} taps of the {model}: an image embedding, a text embedding'
      f'{f" and {scalars} more" if scalars else ""}; it was given {names!r}.'
    )
  arrays = [tap(outputs, name, method, model) for name in names]
  a, b = arrays[:2]
  if a.ndim != 2 or a.shape != b.shape or any(x.ndim for x in arrays[2:]):
    shapes = ', '.join(f'{n!r} {list(x.shape)}' for n, x in zip(names, arrays, strict=True))
    raise KdjaxError(
      f'{method} needs two [B, D] embeddings of the {model}, then scalars; it was given {shapes}.'
    )
  return arrays if model == 'student' else jax.lax.stop_gradient(arrays)


def example_mask(batch: Batch, x: Array) -> Array:
  """`[B]`: 1 for an example, 0 for padding."""
  mask = batch.get('mask')
  return jnp.ones(x.shape[0], x.dtype) if mask is None else mask.astype(x.dtype)


def mean_over_examples(values: Array, batch: Batch) -> SumCount:
  """`(sum, count)` of per-example values `[B]`, padding left out."""
  mask = example_mask(batch, values)
  return jnp.sum(jnp.where(mask > 0, values, 0) * mask), jnp.sum(mask)


def mean_over_axes(x: Array) -> Array:
  """`[B, ...] -> [B]`, the mean over everything but the batch."""
  return x.reshape(x.shape[0], -1).mean(-1)


def as_batch_term(mean: SumCount) -> SumCount:
  """A mean over the batch as a relation, which counts once."""
  total, count = mean
  return total / jnp.where(count > 0, count, 1), jnp.ones_like(count)


def labelled(logits: Array, batch: Batch, method: str) -> tuple[Array, dict]:
  """(labels `[B]`, the batch without the examples whose label is not known, at -1).

  Raises:
    KdjaxError: if there are no labels, or they do not belong to logits `[B, C]`.
  """
  if 'label' not in batch:
    raise KdjaxError(f"{method} needs labels, and the batch has no 'label'.")
  label = batch['label']
  if logits.shape[:-1] != label.shape or label.ndim != 1:
    raise KdjaxError(
      f'{method} cannot pair logits {list(logits.shape)} with labels {list(label.shape)}: '
      'it needs [B, C] and [B].'
    )
  return jnp.maximum(label, 0), {'mask': example_mask(batch, logits) * (label >= 0)}


def positions(x: Array, batch: Batch, mask: str | None, method: str) -> Array:
  """The weights of the positions of `x` `[B, L]`: 0 for padding and where `batch[mask]` leaves one out.

  Args:
    mask: a key that ends in 'mask' holds the validity of the positions; any other holds target
      tokens, negative (-100) where there is none. None counts every position.

  Raises:
    KdjaxError: if there is no such key, or it is of another shape than `x`.
  """
  weights = jnp.broadcast_to(example_mask(batch, x).reshape(-1, *[1] * (x.ndim - 1)), x.shape)
  if mask is None:
    return weights
  if mask not in batch:
    raise unknown(f'key of the batch in methods.{method}', mask, batch)
  values = batch[mask]
  if values.shape != x.shape:
    raise KdjaxError(
      f'{method} cannot mask positions of shape {list(x.shape)} with the key {mask!r} '
      f'{list(values.shape)} of the batch: name one of that shape, or None.'
    )
  return weights * (values if mask.endswith('mask') else values >= 0).astype(x.dtype)


def valid_positions(batch: Batch, name: str, x: Array, mask: str | None, method: str) -> Array:
  """`[B, L]` weights, as `positions` gives them, of the student's tap `name`, `x` `[B, L, ...]`.

  Args:
    mask: None for '<modality>/mask' of a tap '<modality>/...', or for a tap with no modality the
      only mask in the batch that fits, where the batch has one; '' counts every position.
  """
  modality, _, suffix = name.partition('/')
  candidates = [k for k, v in batch.items() if k.endswith('/mask') and v.shape == x.shape[:2]]
  keys = [f'{modality}/mask'] if suffix else candidates
  default = keys[0] if len(keys) == 1 and keys[0] in batch else None
  first = x.reshape(*x.shape[:2], -1)[..., 0]
  return positions(first, batch, default if mask is None else mask or None, method)


def mean_over_positions(values: Array, weights: Array) -> SumCount:
  """`(sum, count)` of values `[B, L]`, weighted."""
  return jnp.sum(jnp.where(weights > 0, values, 0) * weights), jnp.sum(weights)


def mean_of_each(values: Array, weights: Array) -> Array:
  """`[B]`, the mean of an example's values `[B, L]`, weighted; 0 for one with no weight."""
  total = jnp.sum(jnp.where(weights > 0, values, 0) * weights, 1)
  return total / jnp.maximum(weights.sum(1), 1)


def patch_map(x: Array, first: int, name: str, method: str) -> Array:
  """The patches of tokens `[B, first + H · H, D]` as a map `[B, H, H, D]`; a map as it is.

  Raises:
    KdjaxError: if the tokens after the `first` make no square.
  """
  if x.ndim == 4:
    return x
  side = math.isqrt(max(x.shape[1] - first, 0)) if x.ndim == 3 else 0
  if not side or side**2 != x.shape[1] - first:
    raise KdjaxError(
      f'{method} cannot make a map of the tap {name!r} {list(x.shape)}: it needs [B, H, W, D], or [B, L, D] '
      f'with a square of patches after the first {first} tokens.'
    )
  return x[:, first:].reshape(x.shape[0], side, side, -1)


def sum_of_layers(values: list[Array], batch: Batch, name: str, mask: str | None, method: str) -> SumCount:
  """Values `[B, ...]` of several layers, added up, as a mean over the positions of the tap `name`.

  Args:
    mask: as in `valid_positions`, for sequences `[B, L]`; other shapes leave out padding alone.

  Raises:
    KdjaxError: if the layers are not of one shape.
  """
  if len({v.shape for v in values}) > 1:
    raise KdjaxError(
      f'{method} adds up layers of one length, not of {[list(v.shape[1:]) for v in values]}: give the '
      'others an entry of their own.'
    )
  total = losses.total(values)
  if total.ndim == 2:
    return mean_over_positions(total, valid_positions(batch, name, total, mask, method))
  return mean_over_positions(total, positions(total, batch, None, method))


def shifted_temperature(
  weights: Array, batch: Batch, temperature: float, beta: float, minimum: float
) -> Array:
  """T + (mean w - w) · beta of weights `[B, ...]`, padding left out of the mean, at least `minimum`.

  An example with a large weight gets a low temperature (Wen et al., 1911.07471).
  """
  mean, _ = as_batch_term(mean_over_examples(mean_over_axes(weights), batch))
  return jnp.maximum(temperature + (mean - weights) * beta, minimum)
