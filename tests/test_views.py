"""More views of an example: what they show, who sees them, and the methods that they feed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from kdjax import teacher_store
from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages
from kdjax.experiment.validate import check
from kdjax.input import augment, views
from kdjax.input.rand_augment import OPERATIONS, rand_augment
from kdjax.models.vision.resnet import Resnet
from kdjax.nn import functional
from kdjax.recipes import model
from kdjax.teacher_store import manifest

TURNS = {f'view{i}': (f'rotate_{90 * i}',) for i in (1, 2, 3)}
STRONG = {'strong': ('rand_augment',)}
MOVED = {'strong': ('crop',)}  # compiles in no time
MLKD = {'mlkd': {'student_strong': 'strong/logits', 'teacher_strong': 'strong/logits'}}


def batch_of(n, size=16, seed=0):
  image = np.random.default_rng(seed).integers(0, 256, (n, size, size, 3)).astype(np.uint8)
  return {'image': image, 'id': np.arange(n, dtype=np.int32) + 5, 'epoch': np.full(n, 3, np.int32)}


def view_of(shown, augmented=(), seed=0):
  return jax.jit(build.make_augment({'augment': augmented}, seed, shown))


def shear(image, v, axis):
  v = -0.3 + 0.6 * v
  return image.transform(image.size, Image.AFFINE, (1, v, 0, 0, 1, 0) if axis else (1, 0, 0, v, 1, 0))


def move(image, v, axis):
  v = (-0.3 + 0.6 * v) * image.size[1 - axis]
  return image.transform(image.size, Image.AFFINE, (1, 0, v, 0, 1, 0) if axis else (1, 0, 0, 0, 1, v))


def enhance(kind):
  return lambda image, v: kind(image).enhance(0.05 + 0.9 * v)


PILLOW = {
  'autocontrast': lambda image, v: ImageOps.autocontrast(image),
  'brightness': enhance(ImageEnhance.Brightness),
  'colour': enhance(ImageEnhance.Color),
  'contrast': enhance(ImageEnhance.Contrast),
  'equalize': lambda image, v: ImageOps.equalize(image),
  'identity': lambda image, v: image,
  'posterize': lambda image, v: ImageOps.posterize(image, int(4 + 4 * v)),
  'rotate': lambda image, v: image.rotate(-30 + 60 * v),
  'sharpness': enhance(ImageEnhance.Sharpness),
  'shear_x': lambda image, v: shear(image, v, 1),
  'shear_y': lambda image, v: shear(image, v, 0),
  'solarize': lambda image, v: ImageOps.solarize(image, 256 * v),
  'translate_x': lambda image, v: move(image, v, 1),
  'translate_y': lambda image, v: move(image, v, 0),
}


@pytest.mark.parametrize('name', OPERATIONS)
def test_an_operation_is_pillows(name):
  rng, call = np.random.default_rng(0), jax.jit(OPERATIONS[name])
  for low, high, v in ((0, 256, 0.13), (60, 180, 0.57), (0, 40, 0.91), (7, 8, 0.4)):
    image = rng.integers(low, high, (24, 24, 3)).astype(np.uint8)
    image[4:20, 6:18] = image[4, 6]
    theirs = np.asarray(PILLOW[name](Image.fromarray(image), v)).astype(int)
    result = np.asarray(call(image.astype(np.float32), v))
    assert result.min() >= 0 and result.max() <= 255 and (result == result.round()).all()
    close = abs(result - theirs) <= 1
    assert close.mean() > (0.97 if name in ('rotate', 'shear_x', 'shear_y') else 0.999), close.mean()


@pytest.mark.whole
def test_strong_views_are_of_bytes_and_of_any_channels():
  keys = jax.random.split(jax.random.key(0), 64)
  image = np.random.default_rng(0).integers(0, 256, (16, 12, 3)).astype(np.uint8)
  result = jax.jit(jax.vmap(rand_augment, (0, None)))(keys, image)
  assert result.shape == (64, 16, 12, 3) and result.dtype == jnp.uint8
  assert len(np.unique(np.asarray(result).reshape(64, -1), axis=0)) > 60
  assert rand_augment(keys[0], image[..., :1]).shape == (16, 12, 1)
  with pytest.raises(KdjaxError, match='images of bytes'):
    rand_augment(keys[0], image.astype(np.float32))


def test_a_view_is_of_what_augment_leaves():
  batch = batch_of(6)
  plain = view_of({}, ('flip', 'crop'))(batch)
  seen = view_of(TURNS | MOVED, ('flip', 'crop'))(batch)
  assert seen.keys() - plain.keys() == {f'view:{name}/image' for name in (*TURNS, 'strong')}
  np.testing.assert_array_equal(seen['image'], plain['image'])
  for i in (1, 2, 3):
    turned = np.rot90(plain['image'], i, (1, 2))
    np.testing.assert_array_equal(seen[f'view:view{i}/image'], turned)


def test_a_view_is_a_function_of_seed_epoch_id_and_its_name():
  batch, rows, key = batch_of(6), np.array([3, 1]), 'view:strong/image'
  view = view_of(MOVED)
  one = view(batch)[key]
  np.testing.assert_array_equal(view({k: v[rows] for k, v in batch.items()})[key], one[rows])
  np.testing.assert_array_equal(view_of(TURNS | MOVED)(batch)[key], one)
  assert (view(batch | {'epoch': batch['epoch'] + 1})[key] != one).any()
  assert (view_of(MOVED, seed=1)(batch)[key] != one).any()
  both = view_of(MOVED | {'other': ('crop',)})(batch)
  assert (both['view:other/image'] != one).any()


def test_views_leave_the_statistics_as_they_are():
  """Each has taps of its own, and batch norm keeps what it keeps without them."""
  net = functional.functions(Resnet(widths=(4,), blocks=(1,), num_classes=3), {'image': 'image'})
  batch, rng = batch_of(8), jax.random.key(1)
  variables = jax.jit(net.init)(jax.random.key(0), batch)
  seen = view_of(TURNS | MOVED)(batch)
  apply = jax.jit(lambda b: net.apply(variables, b, train=True, rng=rng))
  (alone, stats), (outputs, kept) = apply(batch), apply(seen)
  jax.tree.map(np.testing.assert_array_equal, stats, kept)
  assert any(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (stats, variables)), strict=False))
  assert set(outputs) == {
    f'{prefix}{k}' for prefix in ('', 'strong/', *(f'{n}/' for n in TURNS)) for k in alone
  }
  turned, _ = apply(batch | {'image': seen['view:view1/image']})
  np.testing.assert_allclose(outputs['view1/logits'], turned['logits'], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(outputs['logits'], alone['logits'], rtol=1e-5, atol=1e-6)


@pytest.fixture
def small(config):
  """Models that compile in no time."""
  config.teacher.model, config.student.model = model('mlp', hidden=(16,)), model('mlp', hidden=(4,))
  config.student.train.augment = ('flip',)
  return config


def losses(experiment):
  return (experiment.folder('student') / 'metrics.jsonl').read_text()


@pytest.mark.whole
def test_mlkd_learns_from_a_strong_view(experiment, small):
  """End to end, with a live teacher and with a stored one."""
  small.student.views, small.methods = STRONG, MLKD
  small.store.update(dtype='float32', views=2)
  whole = experiment('live')
  stages.run(whole, ('teacher', 'student'))
  assert '"loss/mlkd"' in losses(whole)
  small.teacher.source = 'store'
  stored = experiment('stored')
  stages.run(stored, ('teacher', 'student'))
  kept = manifest.load(teacher_store.folder(stored))['identity']
  assert kept['student.views.strong'] == ['rand_augment'] and 'taps.strong/logits' in kept
  weights = (x.variables('student') for x in (whole, stored))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), *weights)
  stages.run(stored, ('student',))  # the same command goes on
  small.student.views = {'strong': ('rotate_90',)}
  with pytest.raises(KdjaxError, match='student.views.strong'):
    stages.run(experiment('stored'), ('student',))


@pytest.mark.whole
def test_sskd_learns_from_turned_views(experiment, small):
  """With the two other terms of the paper beside it, under the names of its views."""
  small.student.views = TURNS
  kd = {f'kd_{name}': {'method': 'kd', 'weight': 0.9} for name in TURNS}
  kd = {
    f'kd_{n}': e | dict.fromkeys(('student', 'teacher'), f'{n}/logits')
    for n, e in zip(TURNS, kd.values(), strict=True)
  }
  small.methods = {'sskd': {}, 'kd': {'weight': 0.9}} | kd
  whole = experiment()
  stages.run(whole, ('teacher', 'baseline', 'student'))
  assert all(f'"loss/{name}"' in losses(whole) for name in small.methods)
  setups = {stage: stages.setup(whole, stage) for stage in ('teacher', 'baseline', 'student')}
  batch = whole.data.train.take(np.arange(4)) | {'epoch': np.zeros(4, np.int32)}
  shown = {
    stage: [k for k in result.augment(batch) if k.startswith(views.VIEW)] for stage, result in setups.items()
  }
  assert shown == {'teacher': [], 'baseline': [], 'student': [f'view:{name}/image' for name in TURNS]}


@pytest.mark.parametrize(
  ('shown', 'told'),
  [
    ({'a': ('turn',)}, "operation of student.views.a: 'turn'"),
    ({'a': ('mixup',)}, "operation of student.views.a: 'mixup'"),
    ({'a': ()}, 'student.views.a is .*: a view has operations'),
    ({'image': ('flip',)}, 'student.views.image is .*: a view has operations'),
    ({'a/b': ('flip',)}, 'student.views.a/b is .*: a view has operations'),
  ],
)
def test_a_view_that_cannot_be_is_one_line(experiment, small, shown, told):
  small.student.views = shown
  with pytest.raises(KdjaxError, match=told):
    check(experiment())


def test_a_view_of_nothing_and_a_tap_of_no_view(experiment, small):
  small.methods = MLKD
  with pytest.raises(KdjaxError, match="'strong/logits'"):
    check(experiment('a'))
  small.student.views = {'strong': ('drop_words',)}
  check(experiment('b'))
  with pytest.raises(KdjaxError, match='student.views.strong changes nothing: the data have'):
    augment.make_augment((), 0, {'strong': ('drop_words',)})(batch_of(2))
  small.teacher.source = 'auto'
  with pytest.raises(KdjaxError, match='auto'):
    check(experiment('c'))
  small.teacher.source, small.on_policy.share = 'live', 0.5
  with pytest.raises(KdjaxError, match='on_policy.share makes others'):
    check(experiment('d'))
