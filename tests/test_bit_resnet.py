"""BiT's ResNet-v2: its sizes, its weights in three namings, and files that are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from kdjax import pretrained, registry
from kdjax.errors import KdjaxError
from kdjax.models.vision.bit_resnet import DEPTHS, with_standardised_weights
from kdjax.pretrained import bit_resnet, safetensors_io

SMALL = {'model': 'bit_resnet', 'depth': 26, 'width': 0.5, 'num_classes': 5}


@functools.cache
def made(side=64, **options):
  net = registry.make('models', 'bit_resnet', options)
  batch = {'image': jax.ShapeDtypeStruct((2, side, side, 3), jnp.uint8)}
  return jax.eval_shape(net.init_with_output, jax.random.key(0), batch)


def like(**options):
  return made(**{k: v for k, v in (SMALL | options).items() if k != 'model'})[1]


def formula(depth, width, classes):
  """Weights of kernels, and two of each channel that is normed; the shortcut of a stage's first block."""
  inside, outside, total = 64 * width, 64 * width, 3 * 49 * 64 * width
  for n in DEPTHS[depth]:
    for j in range(n):
      total += outside * inside + 9 * inside**2 + 4 * inside**2 + 2 * outside + 4 * inside
      total += outside * 4 * inside if j == 0 else 0
      outside = 4 * inside
    inside *= 2
  return total + 2 * outside + (outside + 1) * classes


@pytest.mark.parametrize(
  ('depth', 'width', 'params'), [(50, 1, 25_549_352), (101, 1, 44_541_480), (152, 2, 236_335_208)]
)
def test_as_many_parameters_as_published(depth, width, params):
  """timm's counts of resnetv2_50x1_bit, 101x1 and 152x2."""
  taps, variables = made(depth=depth, width=width, num_classes=1000)
  assert sum(x.size for x in jax.tree.leaves(variables)) == params == formula(depth, width, 1000)
  sides = {'stem': 32, 'stage1': 16, 'stage2': 8, 'stage3': 4, 'stage4': 2}
  assert {k: taps[k].shape[1] for k in sides} == sides
  assert taps['stage1'].shape[-1] == 256 * width and taps['embed'].shape == (2, 2048 * width)


def test_an_encoder_and_a_depth_that_there_is_not():
  taps, variables = made(depth=26)
  assert taps.keys() == {'stem', *(f'stage{i}' for i in range(1, 5)), 'embed'}
  assert 'head' not in variables['params']
  assert sum(x.size for x in jax.tree.leaves(variables)) == formula(26, 1, 0)
  with pytest.raises(KdjaxError, match='depth is 34; it has to be 26 or 50'):
    made(depth=34)


def test_a_kernel_has_a_mean_of_0_and_a_deviation_of_1_for_each_output():
  rng = np.random.default_rng(0)
  x, w = rng.normal(size=(2, 6, 6, 4)).astype(np.float32), rng.normal(size=(3, 3, 4, 5)).astype(np.float32)
  how = ((1, 1), 'VALID', None, None, ('NHWC', 'HWIO', 'NHWC'))
  one = jax.jit(lambda w: with_standardised_weights(x, w, *how))
  by_hand = (w - w.mean((0, 1, 2))) / w.std((0, 1, 2))
  wanted = jax.lax.conv_general_dilated(x, by_hand, *how)
  np.testing.assert_allclose(one(w), wanted, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(one(3 * w + 0.5), wanted, rtol=1e-4, atol=1e-4)


def test_it_computes_in_bfloat16():
  half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), like())
  net = registry.make('models', 'bit_resnet', {k: v for k, v in SMALL.items() if k != 'model'})
  taps = jax.eval_shape(net.apply, half, {'image': jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.bfloat16)})
  assert {x.dtype for x in taps.values()} == {jnp.dtype('bfloat16')}


@functools.cache
def names():
  """Our name -> (timm's, the authors', big_vision's)."""
  result = {
    'stem/kernel': (
      'stem.conv.weight',
      'resnet/root_block/standardized_conv2d/kernel',
      'root_block/conv_root/kernel',
    ),
    'norm/scale': ('norm.weight', 'resnet/group_norm/gamma', 'norm-pre-head/scale'),
    'norm/bias': ('norm.bias', 'resnet/group_norm/beta', 'norm-pre-head/bias'),
    'head/kernel': ('head.fc.weight', 'resnet/head/conv2d/kernel', 'head/kernel'),
    'head/bias': ('head.fc.bias', 'resnet/head/conv2d/bias', 'head/bias'),
  }
  for i, n in enumerate(DEPTHS[26]):
    for j in range(n):
      ours, timm = f'stage{i + 1}_block{j + 1}/', f'stages.{i}.blocks.{j}.'
      unit = f'block{i + 1}/unit0{j + 1}/'
      for k, letter in enumerate('abc', 1):
        number = f'_{i + k}' if j else ''  # some files count the convolutions
        theirs = f'resnet/{unit}{letter}/'
        kernel = f'{theirs}standardized_conv2d{number}/kernel'
        result[f'{ours}conv{k}/kernel'] = (f'{timm}conv{k}.weight', kernel, f'{unit}conv{k}/kernel')
        for leaf, torch, tensorflow in (('scale', 'weight', 'gamma'), ('bias', 'bias', 'beta')):
          places = f'{timm}norm{k}.{torch}', f'{theirs}group_norm/{tensorflow}', f'{unit}gn{k}/{leaf}'
          result[f'{ours}norm{k}/{leaf}'] = places
      if not j:
        place = f'resnet/{unit}a/proj/standardized_conv2d/kernel'
        result[f'{ours}shortcut/kernel'] = (f'{timm}downsample.conv.weight', place, f'{unit}conv_proj/kernel')
  return result


@functools.cache
def drawn():
  """Our name -> random weights."""
  rng = np.random.default_rng(0)
  flat = flatten_dict(like()['params'], sep='/')
  return {k: rng.normal(size=x.shape).astype(np.float32) for k, x in flat.items()}


def in_names_of(library):
  """The weights in the names and layouts of 'timm', the 'authors' or 'big_vision'."""
  at, collected = ('timm', 'authors', 'big_vision').index(library), {}
  for name, x in drawn().items():
    if name == 'head/kernel' and library != 'big_vision':
      x = x[None, None]
    if library == 'timm' and x.ndim == 4:
      x = x.transpose(3, 2, 0, 1)
    if library == 'big_vision' and x.ndim == 1 and not name.startswith('head'):
      x = x[None, None, None]
    collected[names()[name][at]] = x
  return collected


@pytest.mark.parametrize('library', ['timm', 'authors', 'big_vision'])
def test_the_names_of_three_libraries(library):
  assert names().keys() == drawn().keys()
  known = {k: v for k, v in SMALL.items() if k != 'model'}
  loaded = safetensors_io.fit(bit_resnet.convert(in_names_of(library), known), like(), library)
  loaded = flatten_dict(loaded['params'], sep='/')
  assert all(np.array_equal(loaded[k], x) for k, x in drawn().items())
  bare = bit_resnet.convert(in_names_of(library), known | {'num_classes': None})
  safetensors_io.fit(bare, like(num_classes=None), library)
  with pytest.raises(KdjaxError, match=r'1 extra \(another/kernel\)'):
    safetensors_io.fit(
      bit_resnet.convert(in_names_of(library) | {'another/kernel': np.ones(2)}, known), like(), library
    )


@pytest.mark.parametrize('library', ['authors', 'big_vision'])
def test_an_npz_file(tmp_path, library):
  path = tmp_path / 'R26.npz'
  tensors = in_names_of(library)
  if library == 'big_vision':  # as its trainer saves them
    tensors = {f'params/{k}': x for k, x in tensors.items()} | {'opt/0/count': np.ones(2)}
  np.savez(path, **tensors)
  loaded = flatten_dict(pretrained.load(str(path), SMALL, like())['params'], sep='/')
  assert all(np.array_equal(loaded[k], x) for k, x in drawn().items())
  with pytest.raises(KdjaxError, match='R26.npz has 5 classes, and the data set has 7'):
    pretrained.load(str(path), SMALL | {'num_classes': 7}, like(num_classes=7))


class Runs:
  def __reduce__(self):
    return (pytest.fail, ('a pickle was read',))


def test_a_file_with_a_pickle_or_half_of_one_is_refused(tmp_path):
  path = tmp_path / 'bad.npz'
  np.savez(path, **{'resnet/group_norm/gamma': np.array([Runs()], object)})
  half = tmp_path / 'half.npz'
  np.savez(half, a=np.ones(1000))
  half.write_bytes(half.read_bytes()[:600])
  cases = {path: 'which are pickles', half: 'cannot read', tmp_path / 'no.npz': 'cannot read'}
  for one, match in cases.items():
    with pytest.raises(KdjaxError, match=match) as error:
      pretrained.load(str(one), SMALL, like())
    assert '\n' not in str(error.value) and str(one) in str(error.value)


def test_the_config_of_timm(tmp_path):
  message = bit_resnet.config({'architecture': 'resnetv2_152x2_bit'}, tmp_path)
  assert message == {'depth': 152, 'width': 2, 'eps': 1e-8}
  assert bit_resnet.config({'architecture': 'resnetv2_50x1_bit.goog_distilled_in1k'}, tmp_path)['depth'] == 50
  for other in ('resnetv2_50', 'resnetv2_50x1_bitm', ''):
    with pytest.raises(KdjaxError, match=f"unknown architecture for the model bit_resnet: '{other}'"):
      bit_resnet.config({'architecture': other}, tmp_path)
