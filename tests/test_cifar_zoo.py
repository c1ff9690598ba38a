"""The models for images of 32×32: sizes, maps, a step of each, and the names in their checkpoints."""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.pretrained import safetensors_io

MEASURED = Path(__file__).parents[2] / 'shared' / 'paper_tables' / 'cifar_model_shapes.json'
IMAGE = {'image': jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)}
THREE = ((16, 32), (16, 32), (32, 16), (64, 8), 64)  # channels and side of stem and stages, and the vector
WIDER = ((32, 32), (64, 32), (128, 16), (256, 8), 256)
TWICE = ((16, 32), (32, 32), (64, 16), (128, 8), 128)
VGG = ((64, 32), (128, 16), (256, 8), (512, 4), (512, 4), 512)
FIFTY = ((64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4), 2048)
MOBILE = ((16, 16), (12, 16), (16, 8), (48, 4), (160, 2), 1280)
SHUFFLE1 = ((24, 32), (240, 16), (480, 8), (960, 4), 960)
SHUFFLE2 = ((24, 32), (116, 16), (232, 8), (464, 4), 1024)
# Weights, without running statistics, as the authors' torch modules for 100 classes count them.
ZOO = {
  'resnet8': ('cifar_resnet', {'depth': 8}, 83_892, THREE),
  'resnet14': ('cifar_resnet', {'depth': 14}, 181_108, THREE),
  'resnet20': ('cifar_resnet', {}, 278_324, THREE),
  'resnet32': ('cifar_resnet', {'depth': 32}, 472_756, THREE),
  'resnet44': ('cifar_resnet', {'depth': 44}, 667_188, THREE),
  'resnet56': ('cifar_resnet', {'depth': 56}, 861_620, THREE),
  'resnet110': ('cifar_resnet', {'depth': 110}, 1_736_564, THREE),
  'resnet8x4': ('cifar_resnet', {'depth': 8, 'widen': 4}, 1_233_540, WIDER),
  'resnet32x4': ('cifar_resnet', {'depth': 32, 'widen': 4}, 7_433_860, WIDER),
  'ResNet50': ('cifar_resnet_bottleneck', {}, 23_705_252, FIFTY),
  'wrn_16_1': ('cifar_wrn', {'depth': 16, 'widen': 1}, 180_916, THREE),
  'wrn_16_2': ('cifar_wrn', {'depth': 16}, 703_284, TWICE),
  'wrn_40_1': ('cifar_wrn', {'widen': 1}, 569_780, THREE),
  'wrn_40_2': ('cifar_wrn', {}, 2_255_156, TWICE),
  'vgg8': ('cifar_vgg', {}, 3_965_028, VGG),
  'vgg11': ('cifar_vgg', {'depth': 11}, 9_277_284, VGG),
  'vgg13': ('cifar_vgg', {'depth': 13}, 9_462_180, VGG),
  'vgg16': ('cifar_vgg', {'depth': 16}, 14_774_436, VGG),
  'vgg19': ('cifar_vgg', {'depth': 19}, 20_086_692, VGG),
  'MobileNetV2': ('cifar_mobilenet_v2', {}, 812_836, MOBILE),
  'ShuffleV1': ('cifar_shufflenet_v1', {}, 949_258, SHUFFLE1),
  'ShuffleV2': ('cifar_shufflenet_v2', {}, 1_355_528, SHUFFLE2),
}
SMALL = {
  'cifar_resnet': {'depth': 8},
  'cifar_resnet_bottleneck': {'widths': (4, 8), 'blocks': (1, 2)},
  'cifar_wrn': {'depth': 10, 'widen': 1},
  'cifar_vgg': {},
  'cifar_mobilenet_v2': {'width': 0.25, 'blocks': (1, 1, 1, 1, 2, 1, 1)},
  'cifar_shufflenet_v1': {'widths': (48, 96), 'blocks': (2, 1)},
  'cifar_shufflenet_v2': {'widths': (16, 32), 'last': 24, 'blocks': (2, 1)},
}


@functools.cache
def made(name):
  """(taps, variables) of a model of the zoo with 100 classes, as shapes."""
  model, attributes, *_ = ZOO[name]
  net = registry.make('models', model, attributes | {'num_classes': 100})
  return jax.eval_shape(net.init_with_output, jax.random.key(0), IMAGE)


def size(variables):
  return sum(x.size for x in jax.tree.leaves(variables['params']))


def chw(taps, names):
  return [(taps[k].shape[3], *taps[k].shape[1:3]) for k in names]


@pytest.mark.parametrize('name', ZOO)
def test_sizes(name):
  *_, params, shapes = ZOO[name]
  taps, variables = made(name)
  stages = [f'stage{i}' for i in range(1, len(shapes) - 1)]
  maps = [(c, side, side) for c, side in shapes[:-1]]
  assert size(variables) == params
  assert chw(taps, ['stem', *stages]) == maps
  assert chw(taps, [f'{k}_before' for k in stages]) == maps[1:]
  assert taps['embed'].shape == (1, shapes[-1]) and taps['logits'].shape == (1, 100)
  assert len(taps) == 2 * len(stages) + 3


def test_they_are_all_that_was_measured():
  if not MEASURED.exists():
    pytest.skip('needs the shapes measured in torch')
  measured = json.loads(MEASURED.read_text())['models']
  assert measured.keys() == ZOO.keys()
  for name, (_, _, params, shapes) in ZOO.items():
    maps = [[c, side, side] for c, side in shapes[:-1]]
    assert measured[name]['params'] == params, name
    assert measured[name]['features'] == [*maps, [shapes[-1]]] == measured[name]['preact_features'], name


def small(model, **options):
  return registry.make('models', model, SMALL[model] | {'num_classes': 5} | options)


@pytest.mark.whole
@pytest.mark.parametrize('model', SMALL)
def test_a_step_is_finite(model):
  rng, net, label = np.random.default_rng(0), small(model), jnp.array([0, 3])
  batch = {'image': rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)}
  like = jax.eval_shape(net.init, jax.random.key(0), batch)
  # Compiled weights would take longer than all the rest.
  variables = jax.tree.map(lambda x: rng.uniform(-0.5, 1, x.shape).astype(np.float32), like)

  def step(variables):
    def loss(params):
      taps, stats = net.apply(variables | {'params': params}, batch, train=True, mutable=['batch_stats'])
      return -jax.nn.log_softmax(taps['logits'])[jnp.arange(2), label].mean(), (taps, stats)

    return jax.value_and_grad(loss, has_aux=True)(variables['params'])

  (loss, (taps, new)), grads = quick(step, variables)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((loss, taps, new, grads)))
  stem = grads['stem_conv1' if model == 'cifar_vgg' else 'stem']['kernel']
  assert np.abs(grads['head']['linear']['kernel']).max() > 0 < np.abs(stem).max()
  old = jax.tree.leaves(variables['batch_stats'])
  assert all((a != b).any() for a, b in zip(old, jax.tree.leaves(new['batch_stats']), strict=True))


def quick(function, *args):
  """Compiled with little care, since it runs but once."""
  options = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}
  return jax.device_get(jax.jit(function).lower(*args).compile(compiler_options=options)(*args))


@pytest.mark.parametrize(
  ('model', 'where', 'std'),
  [
    ('cifar_resnet', 'stage3_block1/conv2', (2 / (9 * 64)) ** 0.5),
    ('cifar_resnet', 'stage3_block1/shortcut', (2 / 64) ** 0.5),
    ('cifar_shufflenet_v1', 'stage2_block1/conv2', 1 / (3 * 9) ** 0.5),
    ('cifar_shufflenet_v1', 'stage2_block1/conv3', 1 / (3 * 12 / 3) ** 0.5),
  ],
)
def test_first_weights(model, where, std):
  net = small(model)

  def kernel(rng):
    block, conv = where.split('/')
    return net.init(rng, {'image': jnp.zeros((1, 16, 16, 3), jnp.uint8)})['params'][block][conv]['kernel']

  x = quick(kernel, jax.random.key(0))
  np.testing.assert_allclose(x.std(), std, rtol=0.1)


@pytest.mark.parametrize('model', SMALL)
def test_an_encoder_has_no_logits(model):
  taps, variables = jax.eval_shape(small(model, num_classes=None).init_with_output, jax.random.key(0), IMAGE)
  assert 'logits' not in taps and 'head' not in variables['params'] and taps['embed'].ndim == 2


def test_depths_that_there_are_not():
  for model, depth, message in (
    ('cifar_resnet', 18, 'the depth of the model cifar_resnet is 18; choose 6n . 2'),
    ('cifar_resnet', 2, 'choose 6n . 2'),
    ('cifar_wrn', 20, 'the depth of the model cifar_wrn is 20; choose 6n . 4'),
    ('cifar_vgg', 12, 'depth is 12; it has to be 8 or 11 or 13 or 16 or 19'),
  ):
    with pytest.raises(KdjaxError, match=message):
      jax.eval_shape(small(model, depth=depth).init, jax.random.key(0), IMAGE)


def test_a_vgg_pools_larger_images_once_more():
  def last(side):
    batch = {'image': jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)}
    taps = jax.eval_shape(small('cifar_vgg').init_with_output, jax.random.key(0), batch)[0]
    return chw(taps, ['stage3', 'stage4'])

  assert last(32) == [(512, 4, 4), (512, 4, 4)] and last(64) == [(512, 8, 8), (512, 4, 4)]


# What a module of ours is called in the authors' checkpoints, blocks counted from 0.
RESIDUAL = {'conv(.)': r'conv\1', 'norm(.)': r'bn\1'}
SHUFFLE = RESIDUAL | {'head/linear': 'linear', 'stem': 'conv1', 'stem_norm': 'bn1'}
THEIRS = {
  'cifar_resnet': RESIDUAL
  | {'shortcut': 'downsample.0', 'shortcut_norm': 'downsample.1', 'head/linear': 'fc'}
  | {'stem': 'conv1', 'stem_norm': 'bn1'},
  'cifar_resnet_bottleneck': SHUFFLE | {'shortcut': 'shortcut.0', 'shortcut_norm': 'shortcut.1'},
  'cifar_wrn': RESIDUAL | {'shortcut': 'convShortcut', 'head/linear': 'fc', 'stem': 'conv1', 'norm': 'bn1'},
  'cifar_vgg': {'head/linear': 'classifier'},
  'cifar_mobilenet_v2': {'expand': 'conv.0', 'expand_norm': 'conv.1', 'depthwise': 'conv.3'}
  | {'depthwise_norm': 'conv.4', 'project': 'conv.6', 'project_norm': 'conv.7', 'stem': 'conv1.0'}
  | {'stem_norm': 'conv1.1', 'last': 'conv2.0', 'last_norm': 'conv2.1', 'head/linear': 'classifier.0'},
  'cifar_shufflenet_v1': SHUFFLE,
  'cifar_shufflenet_v2': SHUFFLE | {'last': 'conv2', 'last_norm': 'bn2'},
}
PLACES = {'cifar_wrn': 'block{}.layer.{}.', 'cifar_mobilenet_v2': 'blocks.{}.{}.'}
LEAVES = {'scale': 'weight', 'kernel': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}


def their_name(model, path):
  """The name in torch of 'stage1_block2/conv1/kernel'."""
  module, _, leaf = path.rpartition('/')
  if part := re.fullmatch(r'(stem|stage\d)_(conv|norm)(\d)', module):  # of VGG alone
    i = 0 if part[1] == 'stem' else int(part[1][-1])
    return f'block{i}.{3 * int(part[3]) - 3 + (part[2] == "norm")}.{LEAVES[leaf]}'
  place = ''
  if block := re.match(r'(?:stage|group)(\d)_block(\d)/', module):
    first = int(block[1]) - (model == 'cifar_mobilenet_v2')
    place = PLACES.get(model, 'layer{}.{}.').format(first, int(block[2]) - 1)
    module = module[block.end() :]
  old, new = next((k, v) for k, v in THEIRS[model].items() if re.fullmatch(k, module))
  return f'{place}{re.sub(old, new, module)}.{LEAVES[leaf]}'


@pytest.mark.parametrize('model', SMALL)
def test_names_of_checkpoints(model):
  like = jax.eval_shape(small(model).init, jax.random.key(0), IMAGE)
  rng, ours, theirs = np.random.default_rng(0), {}, {}
  for path, shape in jax.tree_util.tree_leaves_with_path(like):
    full = '/'.join(p.key for p in path)
    ours[full] = x = rng.normal(size=shape.shape).astype(np.float32)
    name = their_name(model, full.partition('/')[2])
    assert name not in theirs
    theirs[name] = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
    if name.endswith('running_var'):
      theirs[name.replace('running_var', 'num_batches_tracked')] = np.zeros((), np.int64)
  convert = registry.module('pretrained', model).convert
  loaded = convert(theirs, {'num_classes': 5})
  safetensors_io.fit(loaded, like, model)
  assert loaded.keys() == ours.keys() and all((loaded[k] == ours[k]).all() for k in ours)
  encoder = convert(theirs, {'num_classes': None})
  assert {k for k in loaded if k not in encoder} == {f'params/head/linear/{k}' for k in ('kernel', 'bias')}
