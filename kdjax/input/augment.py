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

TRIES = 10  # boxes drawn until one fits
SHAPE = 4 / 3  # largest ratio of the sides of a box


def flip(key, image):
  """Mirrors left and right with probability 1/2: an image, or all frames of a video alike."""
  return jnp.where(jax.random.bernoulli(key), image[..., ::-1, :], image)


def _shift(key, image, pixels, mode):
  """Moves an image, or all frames of a video alike, by up to `pixels` each way, over a border of a `mode`."""
  frames = image.ndim - 3
  padded = jnp.pad(image, (*[(0, 0)] * frames, (pixels, pixels), (pixels, pixels), (0, 0)), mode)
  y, x = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
  return jax.lax.dynamic_slice(padded, (*[0] * frames, y, x, 0), image.shape)


def crop(key, image):
  """Moves the image by up to an eighth of its side, over a border of reflections."""
  return _shift(key, image, max(image.shape[0] // 8, 1), 'reflect')


def crop_black(key, image):
  """Moves the image by up to an eighth of its side, over a black border: 4 of 32 pixels, as is usual."""
  return _shift(key, image, max(image.shape[-3] // 8, 1), 'constant')


def jitter(key, image):
  """Moves the image by up to two pixels, over a black border (Hinton et al., 1503.02531, section 3)."""
  return _shift(key, image, 2, 'constant')


def _box(key, shape, min_area):
  """(top, left, height, width) of a box of whole pixels, as torchvision's RandomResizedCrop draws it.

  Its area is uniform from `min_area` to 1, and so is the logarithm of its aspect ratio; where none of ten
  fits, it is the largest of an allowed ratio. TensorFlow draws ratio and height uniformly: smaller boxes.
  """
  height, width = shape[:2]
  area_key, shape_key, place_key = jax.random.split(key, 3)
  area = height * width * jax.random.uniform(area_key, (TRIES,), minval=min_area)
  ratio = jnp.exp(jax.random.uniform(shape_key, (TRIES,), minval=-1, maxval=1) * math.log(SHAPE))
  h, w = (jnp.maximum(jnp.round(jnp.sqrt(x)), 1) for x in (area / ratio, area * ratio))
  fits = (h <= height) & (w <= width)
  first = jnp.argmax(fits)
  h = jnp.where(fits.any(), h[first], min(height, round(width * SHAPE)))
  w = jnp.where(fits.any(), w[first], min(width, round(height * SHAPE)))
  top, left = jnp.floor(jax.random.uniform(place_key, (2,)) * jnp.stack([height - h + 1, width - w + 1]))
  return top, left, h, w


def _resize_box(image, box):
  """The box resized to the size of the image: bilinear, from pixels within the box alone."""
  top, left, h, w = box

  def weights(start, size, n):  # [to, from]: a matrix, since a gather is slow on TPU
    centres = start + (jnp.arange(n) + 0.5) * size / n - 0.5
    centres = jnp.clip(centres, start, start + size - 1)
    return jnp.maximum(1 - jnp.abs(centres[:, None] - jnp.arange(n)), 0)

  sides = weights(top, h, image.shape[0]), weights(left, w, image.shape[1])
  resized = jnp.einsum('yh,xw,hwc->yxc', *sides, image.astype(jnp.float32), precision='highest')
  return _cast_like(resized, image)


def _cast_like(x, image):
  """`x` in the dtype of the image; bytes are rounded."""
  return (jnp.round(x) if image.dtype == jnp.uint8 else x).astype(image.dtype)


def inception_crop(key, image):
  """A box of 5 to 100 % of the area and sides of 3:4 to 4:3, resized to the whole (1409.4842, section 6)."""
  return _resize_box(image, _box(key, image.shape, 0.05))


def slight_crop(key, image):
  """A box of 90 to 100 % of the area, resized to the whole: open_clip's, though that is bicubic."""
  return _resize_box(image, _box(key, image.shape, 0.9))


def _rotate(turns, key, image):
  return jnp.rot90(image, turns)


def drop_words(key, mask, rate: float = 0.15):
  """Leaves out each word with probability `rate`: its position is not valid."""
  return mask & (jax.random.uniform(key, mask.shape) >= rate)


def mixup(keys, image, epoch, example):
  """Each image [B, H, W, C] mixed with another of the batch, by one coefficient (1710.09412; 2106.05237).

  The coefficient is uniform in [0, 1], and the example itself has the larger weight: big_vision's p=1. Each
  example is mixed with its neighbour in a random ring. The result depends on the seed, the epoch and the
  examples of the batch, not on their order, the devices or `accumulate`: a batch is mixed before it is split.
  It is no function of one example, so a teacher store is refused. Labels are not mixed: it is for losses that
  do not read them. Deviations: big_vision mixes within each device; here bytes stay bytes, rounded.
  """
  draws = jax.vmap(jax.random.bits)(keys)
  ring = jnp.lexsort((example, epoch, draws))  # by the draws; ties by epoch and id
  partner = jnp.zeros_like(ring).at[ring].set(jnp.roll(ring, 1))
  coefficient = jax.random.uniform(jax.random.fold_in(keys[ring[0]], 1))
  coefficient = jnp.maximum(coefficient, 1 - coefficient)
  mixed = coefficient * image.astype(jnp.float32) + (1 - coefficient) * image[partner].astype(jnp.float32)
  return _cast_like(mixed, image)


def video_speed(key, video):
  """A stretch of 3/4 to all of the frames, at as many times: the nearest frames, so some come twice."""
  last = len(video) - 1
  length_key, place_key = jax.random.split(key)
  length = last * jax.random.uniform(length_key, minval=0.75)
  start = (last - length) * jax.random.uniform(place_key)
  at = start + length * jnp.linspace(0, 1, len(video))
  return video[jnp.clip(jnp.round(at).astype(jnp.int32), 0, last)]


# Name -> the batch key that it changes, and `operation(key, x)` of one example.
OPERATIONS = {o.__name__: ('image', o) for o in (flip, crop, crop_black, jitter)}
OPERATIONS |= {'drop_words': ('text/mask', drop_words)}
OPERATIONS |= {o.__name__: ('image', o) for o in (inception_crop, slight_crop)}
# Of a video; a flip is not for actions that have a side.
OPERATIONS |= {'video_flip': ('video', flip), 'video_crop': ('video', crop_black)}
OPERATIONS |= {'video_speed': ('video', video_speed)}
OPERATIONS |= {'rand_augment': ('image', rand_augment)}
OPERATIONS |= {f'rotate_{90 * n}': ('image', functools.partial(_rotate, n)) for n in (1, 2, 3)}
# Name -> the key, and `operation(keys, x, epoch, id)` of a whole batch.
TOGETHER = {'mixup': ('image', mixup)}


def check_stored(names: Sequence[str]) -> None:
  """Raises KdjaxError where a stored teacher output would belong to another input than the student's."""
  for name in names:
    if name in TOGETHER:
      raise KdjaxError(
        f'student.train.augment has {name!r}, which relates the examples of a batch: no answer about one of '
        "them can be kept. Set teacher.source='live', or leave it out."
      )


def check_source(source: str, names: Sequence[str], whose: str = '') -> None:
  """Raises KdjaxError where the augmented views would depend on whether a store is on disk."""
  if source == 'auto' and names:
    raise KdjaxError(
      f"{whose}teacher.source is 'auto' and student.train.augment is not empty: a student of a store sees "
      "store.views views of each example, and its baseline has to see the same: set 'store' or 'live'."
    )


def of_store(configs: Iterable[Mapping]) -> bool:
  """Whether the students of these configs train on the stored views of a teacher store."""
  return any(c['teacher']['source'] == 'store' and c['student']['train']['augment'] for c in configs)


def repeated(augment: Callable, views: int) -> Callable:
  """`augment` with the `views` views of a store in turn: epoch e has the view e mod views."""
  return lambda batch: augment({**batch, 'epoch': batch['epoch'] % views})


def make_augment(names: tuple[str, ...], seed: int, views: Mapping[str, tuple[str, ...]] = {}) -> Callable:
  """`augment(batch) -> batch`: the operations applied to each example, in order, and then to all together.

  `views` are further augmentations of the result: the operations of a view applied to a key are added to the
  batch as 'view:<name>/<key>'. A view is a function of the seed, the epoch, the example and the view's name.

  Raises:
    KdjaxError: for an unknown operation, one of a whole batch before one of an example or in a view, and a
      view without operations.
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

  per_example = tuple(name for name in names if name in OPERATIONS)
  whole_batch = {i: TOGETHER[name] for i, name in enumerate(names) if name in TOGETHER}

  def affected(batch, operations):
    return {k: batch[k] for k in {OPERATIONS[name][0] for name in operations} & batch.keys()}

  def key_of(*parts):
    key = jax.random.key(seed)
    for part in parts:
      key = jax.random.fold_in(key, part)
    return key

  def augment_example(operations, salt, arrays, epoch, example):
    key = key_of(epoch, example, *salt)
    for i, name in enumerate(operations):
      target, operation = OPERATIONS[name]
      if target in arrays:
        arrays = arrays | {target: operation(jax.random.fold_in(key, i), arrays[target])}
    return arrays

  def augment_examples(operations, salt, arrays, batch):
    augmented = jax.vmap(functools.partial(augment_example, operations, salt))
    return augmented(arrays, batch['epoch'], batch['id'])

  def augment(batch: Batch) -> Batch:
    if arrays := affected(batch, per_example):
      batch = dict(batch) | augment_examples(per_example, (), arrays, batch)
    for i, (key, operation) in whole_batch.items():
      if key in batch:
        names = batch['epoch'], batch['id']
        keys = jax.vmap(lambda *name, i=i: jax.random.fold_in(key_of(*name), i))(*names)
        batch = dict(batch) | {key: operation(keys, batch[key], *names)}
    view_arrays = {}
    for name, operations in views.items():
      if not (arrays := affected(batch, operations)):
        raise KdjaxError(f'student.views.{name} changes nothing: the data have {", ".join(sorted(batch))}.')
      arrays_of_view = augment_examples(operations, (mark(name),), arrays, batch)
      view_arrays |= {f'{VIEW}{name}/{k}': x for k, x in arrays_of_view.items()}
    return dict(batch) | view_arrays if view_arrays else batch

  return augment
