"""Augmentation on the device: a pure function of the seed, the epoch and the example's id (see `mixup`)."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.input.rand_augment import rand_augment
from kdjax.input.views import VIEW, check_names, mark
from kdjax.types import Batch

TRIES = 10  # boxes that are drawn for one that fits
SHAPE = 4 / 3  # the most that one side of a box is of the other


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


def _box(key, shape, least):
  """(top, left, height, width) of a box of whole pixels, as torchvision's RandomResizedCrop draws it.

  Its area is uniform from `least` to 1, and so is the logarithm of its shape; where none of ten fits, it is
  the largest of an allowed shape. TensorFlow draws shape and height uniformly, and so smaller boxes.
  """
  height, width = shape[:2]
  of_area, of_shape, of_place = jax.random.split(key, 3)
  area = height * width * jax.random.uniform(of_area, (TRIES,), minval=least)
  ratio = jnp.exp(jax.random.uniform(of_shape, (TRIES,), minval=-1, maxval=1) * math.log(SHAPE))
  h, w = (jnp.maximum(jnp.round(jnp.sqrt(x)), 1) for x in (area / ratio, area * ratio))
  fits = (h <= height) & (w <= width)
  first = jnp.argmax(fits)
  h = jnp.where(fits.any(), h[first], min(height, round(width * SHAPE)))
  w = jnp.where(fits.any(), w[first], min(width, round(height * SHAPE)))
  top, left = jnp.floor(jax.random.uniform(of_place, (2,)) * jnp.stack([height - h + 1, width - w + 1]))
  return top, left, h, w


def _enlarged(image, box):
  """The box of the image, at the size of the image: bilinear, and nothing beyond the box is looked at."""
  top, left, h, w = box

  def weights(start, size, n):  # [to, from]: a matrix, since a gather is slow on TPU
    at = start + (jnp.arange(n) + 0.5) * size / n - 0.5
    at = jnp.clip(at, start, start + size - 1)
    return jnp.maximum(1 - jnp.abs(at[:, None] - jnp.arange(n)), 0)

  sides = weights(top, h, image.shape[0]), weights(left, w, image.shape[1])
  made = jnp.einsum('yh,xw,hwc->yxc', *sides, image.astype(jnp.float32), precision='highest')
  return _like(made, image)


def _like(made, image):
  """In the image's own type; bytes are rounded."""
  return (jnp.round(made) if image.dtype == jnp.uint8 else made).astype(image.dtype)


def inception_crop(key, image):
  """A box of 5 to 100 % of the area and sides of 3:4 to 4:3, resized to the whole (1409.4842, section 6)."""
  return _enlarged(image, _box(key, image.shape, 0.05))


def slight_crop(key, image):
  """A box of 90 to 100 % of the area, resized to the whole: open_clip's, though that is bicubic."""
  return _enlarged(image, _box(key, image.shape, 0.9))


def _rotate(turns, key, image):
  return jnp.rot90(image, turns)


def drop_words(key, mask, rate: float = 0.15):
  """Leaves out each word with probability `rate`: its position is not valid."""
  return mask & (jax.random.uniform(key, mask.shape) >= rate)


def mixup(keys, image, epoch, example):
  """Each image [B, H, W, C] mixed with another of the batch, by one coefficient (1710.09412; 2106.05237).

  The coefficient is uniform in [0, 1], and the larger part is the example's own: what big_vision calls p=1.
  Mixed are neighbours in a ring in a random order. All of it depends on the seed, and on which examples of
  which epoch are in the batch; their order, the devices and `accumulate` make no difference, since a batch is
  mixed whole, before it is split. But it is no function of one example, and so a teacher store is refused.
  Labels stay what they are, the larger part's: it is meant for losses that do not read them. Deviations:
  big_vision mixes the rows of each device among themselves; here bytes stay bytes, rounded.
  """
  draws = jax.vmap(jax.random.bits)(keys)
  ring = jnp.lexsort((example, epoch, draws))  # by the draws; the others decide where two are alike
  before = jnp.zeros_like(ring).at[ring].set(jnp.roll(ring, 1))
  share = jax.random.uniform(jax.random.fold_in(keys[ring[0]], 1))
  share = jnp.maximum(share, 1 - share)
  made = share * image.astype(jnp.float32) + (1 - share) * image[before].astype(jnp.float32)
  return _like(made, image)


# Name -> the batch key that it changes, and `operation(key, x)` of one example.
OPERATIONS = {o.__name__: ('image', o) for o in (flip, crop, crop_black, jitter)}
OPERATIONS |= {'drop_words': ('text/mask', drop_words)}
OPERATIONS |= {o.__name__: ('image', o) for o in (inception_crop, slight_crop)}
OPERATIONS |= {'rand_augment': ('image', rand_augment)}
OPERATIONS |= {f'rotate_{90 * n}': ('image', functools.partial(_rotate, n)) for n in (1, 2, 3)}
# Name -> the key, and `operation(keys, x, epoch, id)` of a whole batch.
TOGETHER = {'mixup': ('image', mixup)}


def check_stored(names: Sequence[str]) -> None:
  """Raises KdjaxError where the stored answer about an example would not be about what the student sees."""
  for name in names:
    if name in TOGETHER:
      raise KdjaxError(
        f'student.train.augment has {name!r}, which relates the examples of a batch: no answer about one of '
        "them can be kept. Set teacher.source='live', or leave it out."
      )


def check_source(source: str, names: Sequence[str], whose: str = '') -> None:
  """Raises KdjaxError where what is on disk would decide which views a student sees, after its baseline."""
  if source == 'auto' and names:
    raise KdjaxError(
      f"{whose}teacher.source is 'auto' and student.train.augment is not empty: a student of a store sees "
      "store.views views of each example, and its baseline has to see the same: set 'store' or 'live'."
    )


def of_store(configs: Iterable[Mapping]) -> bool:
  """Whether the students of these configs see those views that a teacher store has."""
  return any(c['teacher']['source'] == 'store' and c['student']['train']['augment'] for c in configs)


def repeated(augment: Callable, views: int) -> Callable:
  """`augment` with so many views of each example in turn, as a store has them: epoch e shows e mod views."""
  return lambda batch: augment({**batch, 'epoch': batch['epoch'] % views})


def make_augment(names: tuple[str, ...], seed: int, views: Mapping[str, tuple[str, ...]] = {}) -> Callable:
  """`augment(batch) -> batch`: the operations applied to each example, in order, and then to all together.

  Of what that gives, `views` show more: what the operations of one make of a key is added to the batch as
  'view:<name>/<key>'. A view is a function of the seed, the epoch, the example and its own name.

  Raises:
    KdjaxError: for an operation that there is not, or one of a whole batch before one of an example or in a
      augment, and for a view of nothing.
  """
  check_names(views)
  for name, operations in views.items():
    for operation in operations:
      if operation not in OPERATIONS:
        raise unknown(f'operation of student.views.{name}', operation, OPERATIONS)
  for i, name in enumerate(names):
    if name not in OPERATIONS | TOGETHER:
      raise unknown('augmentation', name, OPERATIONS | TOGETHER)
    if name in OPERATIONS and any(n in TOGETHER for n in names[:i]):
      raise KdjaxError(f'augment is {", ".join(names)}; {" and ".join(TOGETHER)} comes last.')

  own = tuple(name for name in names if name in OPERATIONS)
  together = {i: TOGETHER[name] for i, name in enumerate(names) if name in TOGETHER}

  def changed(batch, operations):
    return {k: batch[k] for k in {OPERATIONS[name][0] for name in operations} & batch.keys()}

  def key_of(*parts):
    key = jax.random.key(seed)
    for part in parts:
      key = jax.random.fold_in(key, part)
    return key

  def one(operations, own, arrays, epoch, example):
    key = key_of(epoch, example, *own)
    for i, name in enumerate(operations):
      where, operation = OPERATIONS[name]
      if where in arrays:
        arrays = arrays | {where: operation(jax.random.fold_in(key, i), arrays[where])}
    return arrays

  def each(operations, own, arrays, batch):
    return jax.vmap(functools.partial(one, operations, own))(arrays, batch['epoch'], batch['id'])

  def augment(batch: Batch) -> Batch:
    if arrays := changed(batch, own):
      batch = dict(batch) | each(own, (), arrays, batch)
    for i, (where, operation) in together.items():
      if where in batch:
        names = batch['epoch'], batch['id']
        keys = jax.vmap(lambda *name, i=i: jax.random.fold_in(key_of(*name), i))(*names)
        batch = dict(batch) | {where: operation(keys, batch[where], *names)}
    more = {}
    for name, operations in views.items():
      if not (arrays := changed(batch, operations)):
        raise KdjaxError(f'student.views.{name} changes nothing: the data have {", ".join(sorted(batch))}.')
      found = each(operations, (mark(name),), arrays, batch)
      more |= {f'{VIEW}{name}/{k}': x for k, x in found.items()}
    return dict(batch) | more if more else batch

  return augment
