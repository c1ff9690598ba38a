"""`plan`: what a recipe takes on devices that are not here."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from kdjax.errors import KdjaxError
from kdjax.experiment import plan, plan_table
from kdjax.runtime import topology
from kdjax.training import memory

COMMAND = 'python run.py plan --config=a.py --topology=2x4xt4 --config.seeds=1'


@pytest.mark.parametrize(
  ('text', 'count', 'nodes', 'described', 'libtpu'),
  [
    ('v5e-256', 256, 64, '256 TPU v5e', 'v5e:16x16'),
    ('v5litepod-16', 16, 4, '16 TPU v5e', 'v5e:4x4'),
    ('v5p-128', 64, 16, '64 TPU v5p', 'v5p:4x4x4'),  # the name counts cores, two a chip
    ('V4-8', 4, 1, '4 TPU v4', ''),
    ('8xh100', 8, 1, '8 H100', ''),
    ('4x8xA100', 32, 4, '4 nodes of 8 A100', ''),
  ],
)
def test_names_of_devices(text, count, nodes, described, libtpu):
  devices = topology.parse(text)
  assert (devices.count, devices.nodes) == (count, nodes)
  assert (devices.describe(), devices.libtpu) == (described, libtpu)


@pytest.mark.parametrize(
  'text',
  ['', 'h100', 'v5e-6', 'v5p-7', '8xv5e', '0x8xh100', '64xh100', '8x8x8xh100', 'v5p-24', 'v9-8'],
)
def test_a_name_that_is_none_is_one_line(text):
  with pytest.raises(KdjaxError, match='the devices are v4, v5e') as caught:
    topology.parse(text)
  assert '\n' not in str(caught.value)


@pytest.mark.whole
def test_weights_that_are_split_take_their_share(experiment, config):
  whole = plan.plan(experiment('whole'), topology.parse('8xh100')).stages
  config.run.mesh.fsdp = 4
  config.run.shard.teacher = 'auto'
  split = plan.plan(experiment('split'), topology.parse('8xh100')).stages
  key = "for the teacher's weights"
  assert whole[-1].needs[key] / 4 <= split[-1].needs[key] < 0.6 * whole[-1].needs[key]
  assert whole[-1].split == 0 and split[-1].split > 0 and split[0].gradients < whole[0].gradients
  for a, b in zip(whole, split, strict=True):
    assert a.flops == b.flops > 0 and a.needs[memory.TEMPORARY] == b.needs[memory.TEMPORARY] > 0
  config.seeds = 3
  more = plan.plan(experiment('seeds'), topology.parse('8xh100')).stages
  assert more[-1].gradients == pytest.approx(3 * whole[-1].gradients) and more[0].flops == whole[0].flops


@pytest.mark.whole
def test_twice_the_devices_have_half_of_a_batch(experiment):
  few, many = (plan.plan(experiment(), topology.parse(name)).stages[-1] for name in ('4xh100', '8xh100'))
  assert many.flops == pytest.approx(few.flops / 2, rel=0.2) and many.steps == few.steps


def test_gradients_and_weights_that_are_sent():
  """By hand: 8,000 numbers on 8 devices, whole, and split over 4 of them."""
  mesh = jax.sharding.AbstractMesh((2, 4), ('data', 'fsdp'))
  x = jax.ShapeDtypeStruct((1000, 8), jnp.float32)
  spec = jax.sharding.PartitionSpec

  class State:
    params = {'w': x}

  def sent(student, teacher):
    setup = type('Setup', (), {'seeds': (0,), 'teacher_variables': {'w': x}})
    traced = type('Traced', (), {'setup': setup, 'states': {'s': State}, 'teacher_specs': {'w': teacher}})
    traced.specs = {'s': type('Specs', (), {'params': {'w': student}})}
    return plan._sent(traced, mesh)

  assert sent(spec(), spec()) == (2 * 32000 * 7 / 8, 0)
  assert sent(spec('fsdp'), spec()) == (2 * 8000 / 2, 3 * 8000 * 3)
  assert sent(spec(), spec('fsdp')) == (2 * 32000 * 7 / 8, 8000 * 3)


def test_it_is_printed_with_what_to_change(experiment, capsys):
  small = topology.parse('2x4xt4')
  small = small._replace(device=small.device._replace(memory=1e4))
  plan_table.show(experiment(command=COMMAND), small, Console(width=140))
  text = capsys.readouterr().out
  assert 'made on 2 nodes of 4 T4' in text and 'Estimated, not measured' in text
  assert (
    "teacher: does not fit T4: raise run.mesh.fsdp (1) and set run.shard.teacher to 'auto', or lower" in text
  )
  assert (
    'sbatch --nodes=2 --gpus-per-node=4 launch/slurm.sh --config=a.py --config.seeds=1 --workdir=' in text
  )
  assert [c for c in ('teacher', 'baseline', 'student') if f' {c} ' not in text] == []


def test_what_does_not_divide_is_one_line(experiment, config):
  config.run.mesh.fsdp = 3
  with pytest.raises(KdjaxError, match='there are 8 devices'):
    plan.plan(experiment(), topology.parse('8xh100'))
  config.run.mesh.update(fsdp=1, tensor=16)
  with pytest.raises(KdjaxError, match='run.mesh.tensor is 16, and a process has 8 devices'):
    plan.plan(experiment(), topology.parse('4x8xh100'))
  config.run.mesh.tensor = 1
  config.teacher.source = 'ema'
  with pytest.raises(KdjaxError, match="teacher.source is 'ema' and student.train.ema is 0"):
    plan.plan(experiment(), topology.parse('8xh100'))
  config.teacher.source = 'live'
  with pytest.raises(
    KdjaxError, match='teacher.train.batch_size is 16, which does not divide over 64 devices'
  ):
    plan.plan(experiment(), topology.parse('8x8xh100'))


@pytest.mark.whole
@pytest.mark.skipif(not importlib.util.find_spec('libtpu'), reason='needs libtpu')
def test_libtpu_counts_as_this_machine_does(experiment, eight_devices):
  compiled = plan.plan(experiment('a'), topology.parse('v5e-8'))
  estimated = plan.plan(experiment('b'), topology.parse('8xh100'))
  assert 'by libtpu' in compiled.compiled
  for a, b in zip(compiled.stages, estimated.stages, strict=True):
    assert a.flops == pytest.approx(b.flops, rel=0.2) and a.needs[memory.TEMPORARY] > 0


@pytest.mark.whole
def test_tensor_divides_the_work_of_weights_that_it_splits(experiment, config):
  one = plan.plan(experiment('one'), topology.parse('1xh100')).stages[-1]
  config.run.mesh.tensor = 4
  alike = plan.plan(experiment('alike'), topology.parse('4xh100')).stages[-1]
  config.run.shard.update(teacher='auto', student='auto')
  split = plan.plan(experiment('split'), topology.parse('4xh100')).stages[-1]
  assert alike.flops == one.flops == 4 * split.flops
