"""One record of a store: the teacher's taps of one view of one example as bytes of a fixed length."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.training.step import STORED
from kdjax.types import Model

DTYPES = ('float16', 'bfloat16', 'float32')


class Tap(NamedTuple):
  """How a tap is stored.

  Attributes:
    name: of the tap.
    shape: of one example's value.
    dtype: as stored: the store's for floats, the tap's own for integers and masks.
    rows: False for a value that all examples share, such as a temperature.
    k: how many classes of the last axis are stored; 0 for all.
  """

  name: str
  shape: tuple[int, ...]
  dtype: str
  rows: bool
  k: int

  def fields(self) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> dtype and shape of its fields in a record."""
    if not self.k:
      return {self.name: (self.dtype, self.shape)}
    leading = self.shape[:-1]
    return {
      f'{self.name}:class': ('uint16' if self.shape[-1] <= 2**16 else 'uint32', (*leading, self.k)),
      f'{self.name}:value': (self.dtype, (*leading, self.k)),
      f'{self.name}:rest': ('float32', (*leading, 2)),
    }


def plan(t: Mapping, batch_size: int, dtype: str, top_k: int) -> tuple[Tap, ...]:
  """How the taps `t`, arrays or their shapes, are stored.

  Args:
    t: the taps of a batch.
    batch_size: an array with so many rows has one per example.
    dtype: one of `DTYPES`.
    top_k: classes stored of 'logits' and '<modality>/logits'; 0, or as many as there are, for all.
  """
  taps = []
  for name, x in sorted(t.items()):
    rows = x.shape[:1] == (batch_size,)
    shape = tuple(x.shape[1:] if rows else x.shape)
    floats = jnp.issubdtype(x.dtype, jnp.floating)
    truncated = floats and shape and name.split('/')[-1] == 'logits' and 0 < top_k < shape[-1]
    taps.append(Tap(name, shape, dtype if floats else str(x.dtype), rows, top_k if truncated else 0))
  return tuple(taps)


def record(taps: tuple[Tap, ...]) -> np.dtype:
  """The structured dtype of a record; it holds id and view, so that a mix-up is noticed."""
  fields = [(name, jnp.dtype(d), s) for tap in taps for name, (d, s) in tap.fields().items()]
  return np.dtype([('id', '<i4'), ('view', '<u2'), *fields])


def encode(taps: tuple[Tap, ...], t: Mapping) -> tuple[dict, dict]:
  """On the device: (field -> array `[B, ...]`, tap -> (whether it fits its dtype, largest magnitude)).

  Of top-k logits, log-probabilities are stored, and in float32 the logarithms of the partition sum and
  of the mass of all other classes. So the precision does not depend on the level of the logits.
  """
  rows = next((len(t[tap.name]) for tap in taps if tap.rows), 1)
  arrays, checks = {}, {}
  for tap in taps:
    x = t[tap.name] if tap.rows else jnp.broadcast_to(t[tap.name], (rows, *tap.shape))
    fields = {tap.name: x}
    if jnp.issubdtype(x.dtype, jnp.floating):
      x = x.astype(jnp.float32)
      fields = _encode_top_k(tap, x) if tap.k else {tap.name: x}
      values = fields[f'{tap.name}:value' if tap.k else tap.name]
      fits = ~jnp.isnan(x).any() & (jnp.isfinite(values.astype(tap.dtype)) | ~jnp.isfinite(values)).all()
      checks[tap.name] = fits, jnp.abs(values).max()
    arrays |= {name: fields[name].astype(d) for name, (d, _) in tap.fields().items()}
  return arrays, checks


def _encode_top_k(tap, x):
  total = jax.nn.logsumexp(x, -1, keepdims=True)
  values, classes = jax.lax.top_k(x, tap.k)
  others = jnp.put_along_axis(x, classes, -jnp.inf, -1, inplace=False)
  log_masses = jnp.concatenate([total, jax.nn.logsumexp(others, -1, keepdims=True) - total], -1)
  return {f'{tap.name}:class': classes, f'{tap.name}:value': values - total, f'{tap.name}:rest': log_masses}


def pack(taps: tuple[Tap, ...], ids: np.ndarray, view: int, arrays: Mapping) -> np.ndarray:
  """Records `[B]` of the fields `[B, ...]`."""
  records = np.empty(len(ids), record(taps))
  records['id'], records['view'] = ids, view
  for name, array in arrays.items():
    records[name] = array
  return records


def unpack(records: np.ndarray) -> dict[str, np.ndarray]:
  """The batch entries of records `[B]`: 'stored/<field>' -> `[B, ...]`."""
  fields = (records.dtype.names or ())[2:]
  return {f'{STORED}{name}': np.ascontiguousarray(records[name]) for name in fields}


def decode(taps: tuple[Tap, ...], batch: Mapping) -> dict[str, jax.Array]:
  """On the device: the taps of a batch, floats in float32.

  Logits of which k of C classes were stored come back dense, with the mass of the others spread evenly
  over them: at temperature 1 their softmax is the teacher's on the stored classes, to the store's
  precision, and the others together have the teacher's mass. An even spread is the flattest, so at a
  temperature above 1 the others together get more than from the teacher, and below 1 less: store all
  classes where the temperature is high.
  """
  t = {}
  for tap in taps:
    fields = {name: batch[f'{STORED}{name}'] for name in tap.fields()}
    if tap.k:
      t[tap.name] = _decode_top_k(tap, *fields.values())
      continue
    x = fields[tap.name] if tap.rows else fields[tap.name][0]
    t[tap.name] = x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
  return t


def _decode_top_k(tap, classes, values, log_masses):
  total, tail = log_masses[..., :1], log_masses[..., 1:]
  even = tail - np.log(tap.shape[-1] - tap.k)
  dense = jnp.broadcast_to(even, (*even.shape[:-1], tap.shape[-1]))
  values = values.astype(jnp.float32)
  return total + jnp.put_along_axis(dense, classes.astype(jnp.int32), values, -1, inplace=False)


def compare(taps: tuple[Tap, ...], t: Mapping, batch: Mapping) -> dict[str, tuple]:
  """Tap -> (largest absolute error of the store, largest magnitude of the teacher's `t`).

  Of top-k logits both are of the probabilities of the stored classes.
  """
  errors = {}
  for tap in taps:
    stored, live = (x[tap.name].astype(jnp.float32) for x in (decode(taps, batch), t))
    if tap.k:
      classes = batch[f'{STORED}{tap.name}:class'].astype(jnp.int32)
      stored, live = (jnp.take_along_axis(jax.nn.softmax(x), classes, -1) for x in (stored, live))
    error = jnp.where(stored == live, 0, jnp.abs(stored - live))
    errors[tap.name] = error.max(), jnp.where(jnp.isfinite(live), jnp.abs(live), 0).max()
  return errors


def model(taps: tuple[Tap, ...]) -> Model:
  """The stored teacher: its taps come with the batch."""
  return Model(lambda rng, batch: {}, lambda variables, batch, **_: (decode(taps, batch), variables))
