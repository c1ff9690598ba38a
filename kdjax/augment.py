"""Augmentation on the device: a pure function of the seed, the epoch and the example's id."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from kdjax.errors import unknown
from kdjax.layers import scale_image
from kdjax.types import Batch

MODALITIES = ('image', 'text', 'audio', 'video', 'words')


def flip(key, image):
  """Mirrors left and right, every other time."""
  return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def _shift(key, image, by, border):
  """Moves the image by up to `by` pixels each way, over a border as `jnp.pad` makes it."""
  padded = jnp.pad(image, ((by, by), (by, by), (0, 0)), border)
  y, x = jax.random.randint(key, (2,), 0, 2 * by + 1)
  return jax.lax.dynamic_slice(padded, (y, x, 0), image.shape)


def crop(key, image):
  """Moves the image by up to an eighth of its side, over a border of reflections."""
  return _shift(key, image, max(image.shape[0] // 8, 1), 'reflect')


def crop_black(key, image):
  """Moves the image by up to an eighth of its side, over a black border: 4 of 32 pixels, as is usual."""
  return _shift(key, image, max(image.shape[0] // 8, 1), 'constant')


def jitter(key, image):
  """Moves the image by up to two pixels, over a black border (Hinton et al., 1503.02531, section 3)."""
  return _shift(key, image, 2, 'constant')


def drop_words(key, mask, rate: float = 0.15):
  """Leaves out each word with probability `rate`: its position is not valid."""
  return mask & (jax.random.uniform(key, mask.shape) >= rate)


# Name -> the batch key that it changes, and `operation(key, x)` of one example.
OPERATIONS = {o.__name__: ('image', o) for o in (flip, crop, crop_black, jitter)}
OPERATIONS |= {'drop_words': ('text/mask', drop_words)}


def make_view(names: tuple[str, ...], seed: int) -> Callable:
  """`view(batch) -> batch` with the operations applied to each example, in order.

  Raises:
    KdjaxError: for an operation that there is not.
  """
  for name in names:
    if name not in OPERATIONS:
      raise unknown('augmentation', name, OPERATIONS)

  changed = {OPERATIONS[name][0] for name in names}

  def one(arrays, epoch, example):
    key = jax.random.key(seed)
    for part in (epoch, example):
      key = jax.random.fold_in(key, part)
    for i, name in enumerate(names):
      where, operation = OPERATIONS[name]
      if where in arrays:
        arrays = arrays | {where: operation(jax.random.fold_in(key, i), arrays[where])}
    return arrays

  def view(batch: Batch) -> Batch:
    arrays = {k: batch[k] for k in changed & batch.keys()}
    if not arrays:
      return batch
    return dict(batch) | jax.vmap(one)(arrays, batch['epoch'], batch['id'])

  return view


def hide(batch: Batch, name: str, present: jax.Array) -> dict:
  """`batch` without the modality where `present` [B] is 0: '<name>/present' says so, and nothing is left.

  Its values become 0 and its mask empty, so that a model that does not read 'present' learns nothing
  of what is hidden either.
  """
  made = dict(batch) | {f'{name}/present': present * batch.get(f'{name}/present', jnp.ones(len(present)))}
  for key in (name, f'{name}/mask'):
    if key in batch:
      x = scale_image(batch[key])  # of bytes: 0 is grey then, not black
      made[key] = jnp.where(present.reshape(-1, *[1] * (x.ndim - 1)) > 0, x, jnp.zeros_like(x))
  return made


def drop_modalities(key: jax.Array, inputs: Mapping, rates: Mapping[str, float], hidden: bool = True) -> dict:
  """`inputs` with whole modalities absent, an example at a time: '<modality>/present' [B] becomes 0.

  Each of `rates` is dropped with its probability, on its own; an example that would keep no modality
  keeps all.

  Args:
    key: of the draw.
    inputs: of a model.
    rates: modality -> how often an example lacks it.
    hidden: whether the values go too, as `hide` does it. A model that takes no notice of what is absent can
      keep them, and its batch norms their statistics.
  """
  names = sorted(rates)
  rows = len(inputs[names[0]])
  kept = jax.random.uniform(key, (rows, len(names))) >= jnp.array([rates[n] for n in names])
  others = any(k in inputs for k in MODALITIES if k not in rates)
  kept = kept if others else kept | ~kept.any(1, keepdims=True)
  for i, name in enumerate(names):
    made, where = hide(inputs, name, kept[:, i].astype(jnp.float32)), f'{name}/present'
    inputs = made if hidden else dict(inputs) | {where: made[where]}
  return dict(inputs)
