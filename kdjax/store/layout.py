"""One record of a store: the teacher's taps of one view of one example as bytes of a fixed length."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.step import STORED
from kdjax.types import Model

DTYPES = ('float16', 'bfloat16', 'float32')


class Tap(NamedTuple):
  """How a tap is kept.

  Attributes:
    name: of the tap.
    shape: of one example's value.
    dtype: of what is kept: the store's for floats, the tap's own for integers and masks.
    rows: False for a value that all examples share, a temperature for instance.
    k: how many classes of the last axis are kept; 0 for all.
  """

  name: str
  shape: tuple[int, ...]
  dtype: str
  rows: bool
  k: int

  def fields(self) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> type and shape of what a record holds of it."""
    if not self.k:
      return {self.name: (self.dtype, self.shape)}
    above = self.shape[:-1]
    return {
      f'{self.name}:class': ('uint16' if self.shape[-1] <= 2**16 else 'uint32', (*above, self.k)),
      f'{self.name}:value': (self.dtype, (*above, self.k)),
      f'{self.name}:rest': ('float32', (*above, 2)),
    }


def plan(t: Mapping, batch_size: int, dtype: str, top_k: int) -> tuple[Tap, ...]:
  """How the taps `t`, arrays or their shapes, are kept.

  Args:
    t: the taps of a batch.
    batch_size: an array with so many rows has one an example.
    dtype: one of `DTYPES`.
    top_k: classes kept of 'logits' and '<modality>/logits'; 0, or as many as there are, for all.
  """
  made = []
  for name, x in sorted(t.items()):
    rows = x.shape[:1] == (batch_size,)
    shape = tuple(x.shape[1:] if rows else x.shape)
    floats = jnp.issubdtype(x.dtype, jnp.floating)
    cut = floats and shape and name.split('/')[-1] == 'logits' and 0 < top_k < shape[-1]
    made.append(Tap(name, shape, dtype if floats else str(x.dtype), rows, top_k if cut else 0))
  return tuple(made)


def record(taps: tuple[Tap, ...]) -> np.dtype:
  """The structured type of a record; it says whose it is, so that no mix-up goes unseen."""
  fields = [(name, jnp.dtype(d), s) for tap in taps for name, (d, s) in tap.fields().items()]
  return np.dtype([('id', '<i4'), ('view', '<u2'), *fields])


def encode(taps: tuple[Tap, ...], t: Mapping) -> tuple[dict, dict]:
  """On the device: (field -> array `[B, ...]`, tap -> (whether it fits its type, largest magnitude)).

  Of top-k logits, log-probabilities are kept, with the logarithms of the partition sum and of the
  mass of all other classes, in float32, beside them. So nothing hangs on the level of the logits.
  """
  rows = next((len(t[tap.name]) for tap in taps if tap.rows), 1)
  arrays, checks = {}, {}
  for tap in taps:
    x = t[tap.name] if tap.rows else jnp.broadcast_to(t[tap.name], (rows, *tap.shape))
    made = {tap.name: x}
    if jnp.issubdtype(x.dtype, jnp.floating):
      x = x.astype(jnp.float32)
      made = _top(tap, x) if tap.k else {tap.name: x}
      kept = made[f'{tap.name}:value' if tap.k else tap.name]
      fits = ~jnp.isnan(x).any() & (jnp.isfinite(kept.astype(tap.dtype)) | ~jnp.isfinite(kept)).all()
      checks[tap.name] = fits, jnp.abs(kept).max()
    arrays |= {name: made[name].astype(d) for name, (d, _) in tap.fields().items()}
  return arrays, checks


def _top(tap, x):
  total = jax.nn.logsumexp(x, -1, keepdims=True)
  values, classes = jax.lax.top_k(x, tap.k)
  others = jnp.put_along_axis(x, classes, -jnp.inf, -1, inplace=False)
  rest = jnp.concatenate([total, jax.nn.logsumexp(others, -1, keepdims=True) - total], -1)
  return {f'{tap.name}:class': classes, f'{tap.name}:value': values - total, f'{tap.name}:rest': rest}


def pack(taps: tuple[Tap, ...], ids: np.ndarray, view: int, arrays: Mapping) -> np.ndarray:
  """Records `[B]` of the fields `[B, ...]`."""
  made = np.empty(len(ids), record(taps))
  made['id'], made['view'] = ids, view
  for name, array in arrays.items():
    made[name] = array
  return made


def unpack(records: np.ndarray) -> dict[str, np.ndarray]:
  """What a batch carries of records `[B]`: 'stored/<field>' -> `[B, ...]`."""
  fields = records.dtype.names[2:]
  return {f'{STORED}{name}': np.ascontiguousarray(records[name]) for name in fields}


def decode(taps: tuple[Tap, ...], batch: Mapping) -> dict[str, jax.Array]:
  """On the device: the taps of a batch, floats in float32.

  Logits of which k of C classes were kept come back dense, with the mass of the others spread evenly
  over them: their softmax is the teacher's on the classes that were kept, to the store's precision, and
  gives the others together what the teacher gives them. That holds at temperature 1. An even spread is
  the flattest, so at a temperature above 1 the others get more together than from the teacher, and
  below 1 less: keep all classes where the temperature is high.
  """
  t = {}
  for tap in taps:
    kept = {name: batch[f'{STORED}{name}'] for name in tap.fields()}
    if tap.k:
      t[tap.name] = _dense(tap, *kept.values())
      continue
    x = kept[tap.name] if tap.rows else kept[tap.name][0]
    t[tap.name] = x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
  return t


def _dense(tap, classes, values, rest):
  total, tail = rest[..., :1], rest[..., 1:]
  even = tail - np.log(tap.shape[-1] - tap.k)
  dense = jnp.broadcast_to(even, (*even.shape[:-1], tap.shape[-1]))
  values = values.astype(jnp.float32)
  return total + jnp.put_along_axis(dense, classes.astype(jnp.int32), values, -1, inplace=False)


def compare(taps: tuple[Tap, ...], t: Mapping, batch: Mapping) -> dict[str, tuple]:
  """Tap -> (largest absolute error of what is stored, largest magnitude of the teacher's `t`).

  Of top-k logits both are of the probabilities of the classes that are kept.
  """
  made = {}
  for tap in taps:
    mine, theirs = (x[tap.name].astype(jnp.float32) for x in (decode(taps, batch), t))
    if tap.k:
      kept = batch[f'{STORED}{tap.name}:class'].astype(jnp.int32)
      mine, theirs = (jnp.take_along_axis(jax.nn.softmax(x), kept, -1) for x in (mine, theirs))
    error = jnp.where(mine == theirs, 0, jnp.abs(mine - theirs))
    made[tap.name] = error.max(), jnp.where(jnp.isfinite(theirs), jnp.abs(theirs), 0).max()
  return made


def model(taps: tuple[Tap, ...]) -> Model:
  """The stored teacher: its taps come with the batch."""
  return Model(lambda rng, batch: {}, lambda variables, batch, **_: (decode(taps, batch), variables))
