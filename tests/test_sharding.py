"""Weights split over a mesh: the same numbers, fewer bytes a device, and checkpoints for any other mesh."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from safetensors.numpy import load_file

from kdjax.errors import KdjaxError
from kdjax.experiment import stages
from kdjax.recipes import model
from kdjax.runtime import signals
from kdjax.training import compiled_step, partition, sharding, trainer
from kdjax.training.setup import LoopConfig

VIT = {'width': 32, 'depth': 2, 'heads': 2, 'patch': 4}
RULES = (('.*/mlp.*/kernel', ('fsdp', 'tensor')), ('.*/(key|query|value)/kernel', ('', 'tensor')))
EMBEDS = {'student': 'embed', 'teacher': 'embed'}
AUTO = {'teacher': 'auto', 'student': 'auto'}


@pytest.fixture
def config(config):
  """A teacher and a student of some size, dropout, batch norm, relations, two seeds and an average."""
  text = model('bag_of_words', width=32)
  config.teacher.model = model('fusion', width=64, encoders={'image': model('vit', **VIT), 'text': text})
  image = model('resnet', widths=(16, 32), blocks=(0, 1), patch=4)
  config.student.model = model('fusion', width=32, encoders={'image': image, 'text': text})
  config.seeds, config.student.train.ema, config.student.train.augment = 2, 0.5, ('flip',)
  config.methods = {'kd': {'weight': 1.0}, 'rkd': {'weight': 1.0}, 'fitnet': {'weight': 1.0, **EMBEDS}}
  return config


def losses_and_state(config, experiment, mesh, shard, steps=2, stage='student'):
  """(losses of each step, the state, the teacher's variables), after some steps of a new training."""
  config.run.mesh, config.run.shard = dict(mesh), dict(shard)
  exp = experiment('w')
  if not exp.done('teacher') and stage == 'student':
    stages.train_stage(exp, 'teacher')
  setup, how = stages.setup(exp, stage), LoopConfig.of('last', exp.config['run'])
  devices = sharding.make_mesh(how.mesh)
  batch = trainer.first_batch(setup, devices)
  compiled, states = compiled_step.compile_step(setup, how, devices, batch)
  ((name, state),) = states.items()
  batch, t = compiled.teacher_forward(batch)
  seen = []
  for _ in range(steps):
    state, losses = compiled.update(name, state, t, batch)
    seen.append(jax.device_get(losses))
  return seen, state, compiled.teacher_variables


def close(one, two, **tolerance):
  for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(two), strict=True):
    tolerances = {'rtol': 2e-4, 'atol': 2e-5} | tolerance
    np.testing.assert_allclose(x, y, err_msg=jax.tree_util.keystr(path), **tolerances)


def on_one_device(monkeypatch):
  mesh = jax.make_mesh((1,), ('data',), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
  monkeypatch.setattr(sharding, 'make_mesh', lambda *a, **k: mesh)


MESHES = [
  ({}, {}),
  ({'data': 1, 'fsdp': 8}, AUTO),
  ({'data': 4, 'fsdp': 2}, AUTO),
  ({'data': 2, 'fsdp': 2, 'tensor': 2}, AUTO),
  ({'data': -1, 'fsdp': 2, 'tensor': 2}, {'teacher': RULES}),
  ({'fsdp': 8, 'data': 1}, {'student': (('.*/conv./kernel', ('', '', '', 'fsdp')),)}),
]


@pytest.mark.whole
@pytest.mark.parametrize('vectorized', [False, True], ids=['loop', 'vmap'])
def test_every_mesh_gives_the_numbers_of_one_device(
  vectorized, config, experiment, eight_devices, monkeypatch
):
  config.student.train.optimiser.eps = 1e-3  # else Adam makes a step of a gradient that is rounding alone
  with monkeypatch.context() as patch:
    on_one_device(patch)
    wanted, state, _ = losses_and_state(config, experiment, {}, {})
  if vectorized:  # as on an accelerator
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  for mesh, shard in MESHES:
    losses, other, _ = losses_and_state(config, experiment, mesh, shard)
    close(losses, wanted)
    close(other.params, state.params, atol=2e-4)
    close(other.ema, state.ema, atol=2e-4)


def parts(x):
  """Into how many parts an array is split."""
  return len({str(s.index) for s in x.addressable_shards})


@pytest.mark.whole
def test_weights_moments_and_averages_are_split(config, experiment, eight_devices):
  _, state, teacher = losses_and_state(config, experiment, {'data': 1, 'fsdp': 8}, AUTO, 1)
  large = [x for x in jax.tree.leaves(teacher) if x.size >= 1024]
  assert large and all(parts(x) == 8 and len(x.addressable_shards[0].data) for x in large)
  for tree in (state.params['student'], state.ema, state.opt_state, state.params['method']):
    kernels = [x for p, x in jax.tree_util.tree_leaves_with_path(tree) if 'kernel' in str(p) and x.ndim > 2]
    assert kernels and all(parts(x) == 8 for x in kernels if x.size >= 2 * 1024)
  held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves((state, teacher)))
  assert held < 0.3 * sum(x.nbytes for x in jax.tree.leaves((state, teacher)))


def test_the_default_is_the_mesh_of_before(eight_devices):
  mesh = sharding.make_mesh()
  assert mesh.axis_names == ('data',) and mesh.size == 8
  assert sharding.make_mesh({'data': 8, 'fsdp': 1, 'tensor': 1}) == mesh
  assert sharding.batch_axes(mesh) == 'data' and sharding.batch_parts(mesh) == 8
  both = sharding.make_mesh({'data': -1, 'fsdp': 2, 'tensor': 2})
  assert dict(both.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2} and sharding.batch_parts(both) == 4


@pytest.mark.parametrize(
  'sizes', [{'fsdp': 3}, {'data': 4}, {'fsdp': -1}, {'fsdp': 16}, {'tensor': 0}, {'data': -1, 'fsdp': 9}]
)
def test_sizes_that_do_not_multiply(sizes, eight_devices):
  with pytest.raises(
    KdjaxError, match=r'run\.mesh is data .* there are 8 devices: their product has to be 8'
  ):
    sharding.make_mesh(sizes)


def refused(experiment, match):
  with pytest.raises(KdjaxError, match=match) as caught:
    stages.run(experiment('refused'), ('teacher',))
  assert '\n' not in str(caught.value)
  assert not experiment('refused').workdir.exists()


def test_what_cannot_be_split_is_one_line(config, experiment, eight_devices):
  config.run.mesh, config.run.shard = {'data': 2, 'fsdp': 2, 'tensor': 2}, {}
  config.run.shard = {'student': (('.*/nothing', ('fsdp',)),)}
  refused(experiment, r"run\.shard\.student: the rule '\.\*/nothing' matches no array: .* of .*image/")
  config.run.shard.student = (('.*/kernel', ('fsdp', '', '', '', '', '')),)
  refused(experiment, r'has 6 axes, and .*kernel has \d')
  config.run.shard.student = (('.*/bias', ('fsdp',)), ('.*', ('tensor',)))
  refused(experiment, r'splits an axis of \d+ of .* over .* of 2: it does not divide')
  config.run.shard.student = (('.*/kernel', ('expert',)),)
  with pytest.raises(KdjaxError, match='run.shard.student') as caught:
    stages.run(experiment('refused'), ('teacher',))
  assert "'fsdp'" in str(caught.value)
  config.run.shard, config.run.parallel = {'student': 'auto'}, 'pmap'
  refused(experiment, "run.parallel='pmap' splits batches alone")
  config.run.parallel, config.student.train.batch_size = 'jit', 18
  refused(experiment, r'student\.train\.batch_size is 18, which does not divide over 4 parts of the mesh')


def test_auto_takes_the_largest_axis_that_divides(eight_devices):
  mesh = sharding.make_mesh({'data': 1, 'fsdp': 4, 'tensor': 2})
  shapes = {
    'wide': (64, 128),
    'odd': (128, 63),
    'neither': (63, 65),
    'small': (8, 8),
    'conv': (3, 3, 64, 128),
    'vector': (4096,),
  }
  variables = {'params': {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}}
  specs = partition.of_variables(variables, mesh, 'auto')['params']
  assert specs == {
    'wide': PartitionSpec('tensor', 'fsdp'),
    'odd': PartitionSpec('fsdp', None),
    'neither': PartitionSpec(None, None),
    'small': PartitionSpec(None, None),
    'conv': PartitionSpec(None, None, 'tensor', 'fsdp'),
    'vector': PartitionSpec('fsdp'),
  }
  each = partition.bytes_each(variables['params'], specs, mesh)
  assert each == 4 * (64 * 128 / 8 + 128 * 63 / 4 + 63 * 65 + 64 + 9 * 64 * 128 / 8 + 1024)


@pytest.mark.whole
def test_a_checkpoint_goes_on_under_another_mesh(config, experiment, eight_devices):
  """Stopped under 1 × 8, gone on with under 4 × 2 and on 8 data: the weights of a run that never stopped."""
  config.student.train.steps, config.select = 12, 'best'
  stages.run(whole := experiment('whole'), ('teacher', 'student'))
  exp = experiment('split')
  stages.run(exp, ('teacher',))
  for mesh, shard, stop in (
    ({'data': 1, 'fsdp': 8}, AUTO, 4),
    ({'data': 2, 'fsdp': 2, 'tensor': 2}, AUTO, 8),
    ({'data': -1, 'fsdp': 1, 'tensor': 1}, {}, None),
  ):
    config.run.mesh, config.run.shard = dict(mesh), dict(shard)
    if stop:
      calls = iter(range(100))
      with pytest.raises(signals.Interrupted):
        stages.train_stage(experiment('split'), 'student', stopped=lambda calls=calls: next(calls) >= 3)
    else:
      stages.train_stage(experiment('split'), 'student')
  for file in sorted(whole.folder('student').glob('*.safetensors')):
    close(load_file(exp.folder('student') / file.name), load_file(file), atol=1e-3)


@pytest.mark.whole
@pytest.mark.parametrize('weights', ['bfloat16', 'int8'])
def test_a_teacher_in_fewer_bits_is_split_too(weights, config, experiment, eight_devices):
  config.teacher.weights = weights
  wanted, _, _ = losses_and_state(config, experiment, {}, {})
  rules = {'teacher': (('.*/mlp.*/kernel', ('', 'fsdp')),)} if weights == 'int8' else AUTO
  losses, _, teacher = losses_and_state(config, experiment, {'data': 2, 'fsdp': 4}, rules)
  close(losses, wanted, rtol=2e-3)
  assert any(parts(x) == 4 for x in jax.tree.leaves(teacher))


@pytest.mark.whole
def test_a_whole_experiment_with_a_store(config, experiment, eight_devices):
  config.student.train.augment = ()
  stages.run(one := experiment('one'), ('teacher', 'baseline'))
  config.run.mesh, config.run.shard = {'data': 4, 'fsdp': 2}, AUTO
  config.teacher.source = 'auto'
  stages.run(two := experiment('two'), ('teacher', 'baseline'))
  stages.store_command(two, 'build')
  stages.store_command(two, 'verify')
  stages.run(two)
  for stage in ('teacher', 'baseline'):
    for file in sorted(one.folder(stage).glob('*.safetensors')):
      close(load_file(two.folder(stage) / file.name), load_file(file), atol=1e-3)
  assert re.search('student', (two.workdir / 'report.md').read_text())
