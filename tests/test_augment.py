"""What crops and mixup draw, what they promise, and where they are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from kdjax import types
from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages
from kdjax.input import augment
from kdjax.teacher_store import manifest
from kdjax.training import sharding, step
from kdjax.types import Model

CROPS = {'inception_crop': 0.05, 'slight_crop': 0.9}


def batch_of(n, size=16, seed=0):
  image = np.random.default_rng(seed).integers(0, 256, (n, size, size, 3)).astype(np.uint8)
  return {'image': image, 'id': np.arange(n, dtype=np.int32) + 5, 'epoch': np.full(n, 3, np.int32)}


def view_of(*names, seed=0):
  return jax.jit(build.make_augment({'augment': names}, seed))


def key_of(seed, epoch, example, place):
  key = jax.random.key(seed)
  for part in (epoch, example, place):
    key = jax.random.fold_in(key, part)
  return key


def test_an_operation_draws_by_its_place_in_the_list():
  batch, names = batch_of(6), ('flip', 'crop_black')

  @jax.jit
  def one(image, example):
    for i, name in enumerate(names):
      image = augment.OPERATIONS[name][1](key_of(7, 3, example, i), image)
    return image

  for image, example, result in zip(
    batch['image'], batch['id'], view_of(*names, seed=7)(batch)['image'], strict=True
  ):
    np.testing.assert_array_equal(one(image, example), result)


@pytest.mark.parametrize(('name', 'least'), CROPS.items())
@pytest.mark.parametrize(('height', 'width'), [(224, 224), (200, 300)])
def test_a_box_has_an_area_and_a_shape(name, least, height, width):
  keys = jax.random.split(jax.random.key(0), 3000)
  boxes = jax.jit(jax.vmap(lambda k: jnp.stack(augment._box(k, (height, width), least))))(keys)
  top, left, h, w = np.asarray(boxes).T
  assert (boxes == jnp.round(boxes)).all() and (h >= 1).all() and (w >= 1).all()
  assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
  shape, slack = np.log(w / h), 1 / h.min() + 1 / w.min()
  assert abs(shape).max() < np.log(4 / 3) + slack
  if name == 'inception_crop' and height == width:
    area = h * w / (height * width)
    assert area.min() > least - 0.005 and area.min() < 0.06 and area.max() > 0.95
    # A box with sides of a:b fits a square if its area is b/a at most, so that large ones are drawn anew.
    assert 0.4 < area.mean() < 0.525 and abs(shape.mean()) < 0.02
    assert (left[w < width] > 0).any() and (top + h == height).any()
  if name == 'slight_crop' and height == width:
    assert (h * w >= 0.895 * height * width).all() and 0.05 < ((h == height) & (w == width)).mean() < 0.25


def test_a_crop_is_what_pillow_makes_of_the_box():
  batch, size = batch_of(8, 24), 24
  seen = np.asarray(view_of('inception_crop', seed=1)(batch)['image'])
  boxes = jax.jit(jax.vmap(lambda i: jnp.stack(augment._box(key_of(1, 3, i, 0), (size, size), 0.05))))
  boxes = np.asarray(boxes(batch['id'])).astype(int)
  for image, (top, left, h, w), result in zip(batch['image'], boxes, seen, strict=True):
    cut = Image.fromarray(image[top : top + h, left : left + w])
    theirs = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))
    assert abs(theirs.astype(int) - result).max() <= 1  # Pillow's weights have 8 bits
    assert result.dtype == np.uint8


def test_floats_stay_floats():
  batch = batch_of(4)
  floats = batch | {'image': (batch['image'] / 127.5 - 1).astype(np.float32)}
  view = view_of('inception_crop', 'mixup')
  seen, bytes_ = view(floats)['image'], view(batch)['image']
  assert seen.dtype == jnp.float32
  assert abs(np.asarray(seen) - (np.asarray(bytes_) / 127.5 - 1)).max() < 2.1 / 255


@pytest.mark.parametrize('name', CROPS)
def test_a_crop_is_a_function_of_seed_epoch_and_id(name):
  batch, rows = batch_of(6), np.array([3, 1])
  view = view_of(name, 'flip')
  one = view(batch)['image']
  np.testing.assert_array_equal(view({k: v[rows] for k, v in batch.items()})['image'], one[rows])
  assert (view(batch | {'epoch': batch['epoch'] + 1})['image'] != one).any()
  assert (view_of(name, 'flip', seed=1)(batch)['image'] != one).any()


def spots(n):
  """Images that are black but for one pixel, each another: what is mixed can be read off."""
  image = np.zeros((n, n), np.float32)
  np.fill_diagonal(image, 1)
  return batch_of(n) | {'image': image.reshape(n, 4, -1, 1), 'label': np.arange(n)}


def test_mixup_is_a_ring_with_one_coefficient():
  n, shares, view = 12, [], view_of('mixup')
  for epoch in range(300):
    batch = spots(n) | {'epoch': np.full(n, epoch, np.int32)}
    result = view(batch)
    parts = np.asarray(result['image']).reshape(n, n)
    own, other = np.diag(parts), parts - np.diag(np.diag(parts))
    np.testing.assert_allclose(parts.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(own, own[0])
    assert ((other > 0).sum(0) <= 1).all() and ((other > 0).sum(1) <= 1).all()
    np.testing.assert_array_equal(result['label'], batch['label'])
    shares.append(own[0])
  assert min(shares) >= 0.5 and np.mean(shares) == pytest.approx(0.75, abs=0.03) and max(shares) > 0.97
  deciles = np.histogram(shares, 5, (0.5, 1))[0]
  assert deciles.min() > 35, deciles


def test_mixup_depends_on_the_examples_and_not_on_their_order(eight_devices):
  batch, order = batch_of(16), np.random.default_rng(1).permutation(16)
  view = view_of('inception_crop', 'flip', 'mixup')
  one = np.asarray(view(batch)['image'])
  other = view({k: v[order] for k, v in batch.items()})['image']
  np.testing.assert_array_equal(other, one[order])
  spread = view(sharding.to_global_arrays(batch, sharding.make_mesh()))['image']
  np.testing.assert_array_equal(spread, one)
  assert (view(batch | {'epoch': batch['epoch'] + 1})['image'] != one).any()
  half = view({k: v[:8] for k, v in batch.items()})['image']
  assert (half != one[:8]).any()  # another set of examples: what makes a store impossible


def test_the_teacher_looks_at_what_the_student_sees():
  """Crop, mirroring and mixing included: 'consistent' (2106.05237, section 3)."""
  seen_by = Model(lambda rng, batch: {}, lambda v, batch, *, train=False, rng=None: (dict(batch), {}))
  batch = batch_of(8)
  look = jax.jit(
    step.make_teacher_forward(
      seen_by, build.make_augment({'augment': ('inception_crop', 'flip', 'mixup')}, 0)
    )
  )
  students, t = look({}, batch)
  np.testing.assert_array_equal(t['image'], students['image'])
  assert (students['image'] != batch['image']).any((1, 2, 3)).all()
  update = step.make_update(seen_by, build.task({'name': 'classification'}), recorder(), tx=None)
  state = types.TrainState(0, 0, {'student': {}, 'method': {}}, {'student': {}, 'method': {}}, None, {})
  with pytest.raises(Seen) as error:
    update(state, t, students)
  s, teacher_used, inputs = error.value.args
  np.testing.assert_array_equal(s['image'], teacher_used['image'])
  np.testing.assert_array_equal(s['image'], inputs['image'])


class Seen(Exception):
  pass


def recorder():
  def loss(params, stats, s, t, batch, *, step, rng):
    raise Seen(s, t, batch)

  return types.Method(lambda *_: ({}, {}), loss)


def test_mixup_is_refused_where_answers_are_kept(experiment, config):
  config.student.train.augment = ('flip', 'mixup')
  for source in ('store', 'auto'):
    config.teacher.source = source
    with pytest.raises(KdjaxError, match=r"augment has 'mixup', .* Set teacher.source='live'") as error:
      stages.run(experiment(source))
    assert '\n' not in str(error.value)
  config.teacher.source = 'live'
  with pytest.raises(KdjaxError, match="augment has 'mixup'"):
    manifest.spec(experiment(), None)  # of `store build`


def test_what_is_unknown_or_out_of_place():
  with pytest.raises(KdjaxError, match="unknown augmentation: 'mixap'; did you mean 'mixup'"):
    build.make_augment({'augment': ('mixap',)}, 0)
  with pytest.raises(KdjaxError, match='augment is mixup, flip; mixup comes last'):
    build.make_augment({'augment': ('mixup', 'flip')}, 0)
  batch = {'text/mask': np.ones((2, 3), bool), 'id': np.arange(2), 'epoch': np.arange(2)}
  assert build.make_augment({'augment': ('inception_crop', 'mixup')}, 0)(batch) is batch


@pytest.mark.parametrize('name', ['video_flip', 'video_crop', 'video_speed'])
def test_all_frames_of_a_video_are_moved_alike(name):
  """Each frame has a dot at its own place and of its own brightness, which says where it came from."""
  frames = 8
  video = np.zeros((9, frames, 16, 16, 1), np.uint8)
  for t in range(frames):
    video[:, t, 8, 4 + t] = 10 + t
  batch = {'video': video, 'id': np.arange(9), 'epoch': np.zeros(9, np.int32)}
  augmented = np.asarray(augment.make_augment((name,), 0)(batch)['video'])
  for clip in augmented:
    places = [np.argwhere(frame[..., 0])[0] for frame in clip]
    brightness = np.array([frame.max() for frame in clip]).astype(int) - 10
    columns = np.array([x for _, x in places])
    assert len({y for y, _ in places}) == 1
    if name == 'video_speed':
      assert np.all(np.diff(brightness) >= 0) and np.ptp(brightness) >= 5
      np.testing.assert_array_equal(columns, 4 + brightness)
    else:
      np.testing.assert_array_equal(brightness, np.arange(frames))
      assert set(np.diff(columns)) <= ({1, -1} if name == 'video_flip' else {1})
  assert len({clip.tobytes() for clip in augmented}) > 1
