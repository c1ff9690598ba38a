"""A batch in parts and a forward made anew give the same gradient; what does not fit is said beforehand."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import taps
from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages, validate
from kdjax.nn import functional
from kdjax.training import accumulate, memory, remat, sharding, step
from kdjax.types import Model

PARTS = 3


def echo():
  """A student whose taps are an example's own, times a parameter a channel: no example sees another."""
  rows = taps.example()[0]

  def init(rng, batch):
    return {'params': {name: jnp.ones(np.shape(x)[-1:]) for name, x in rows.items()}}

  def apply(variables, batch, *, train=False, rng=None):
    own = {k: jnp.asarray(v)[batch['id']] if np.ndim(v) else jnp.asarray(v) for k, v in rows.items()}
    return {k: v * variables['params'][k] for k, v in own.items()}, {}

  return Model(init, apply)


def close(a, b, rtol=1e-5, atol=1e-6):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def updates(student, method, t, batch, **other):
  """The state and losses after one step of SGD, at once and by the other way of making the step."""
  task, tx = build.task({'name': 'classification'}), optax.sgd(1.0)
  state = step.make_init(student, method, tx)(0, t, batch)
  values = [step.make_update(student, task, method, tx, **inputs) for inputs in ({}, other)]
  return [jax.jit(update)(state, t, batch) for update in values]


SOME = ('kd', 'cwd', 'ctkd', 'forward_kl', 'wsld')  # examples, maps, a learned temperature, tokens, weights


@pytest.mark.whole
def test_parts_add_up_to_the_whole():
  _, t, batch = taps.example()
  batch['mask'][[1, 5, 6]] = 0  # the parts hold no equal numbers of examples
  method = build.method({n: {'weight': 0.7, **taps.needed(n)} for n in SOME}, 6)
  (whole, losses), (parts, summed) = updates(echo(), method, t, batch, gradient=accumulate.in_parts(PARTS))
  close(losses, summed)
  close(whole.params, parts.params)
  assert all(np.abs(x - 1).max() > 1e-3 for x in jax.tree.leaves(whole.params['student']['logits']))


def test_statistics_go_from_part_to_part():
  _, t, batch = taps.example()
  _, (state, _) = updates(taps.peer(), build.method({}, 6), t, batch, gradient=accumulate.in_parts(PARTS))
  mean = np.zeros(3)
  for i in range(PARTS):
    mean = 0.9 * mean + 0.1 * batch['x'][i::PARTS].mean(0)
  np.testing.assert_allclose(state.stats['student']['running']['mean'], mean, rtol=1e-5)


def test_parts_stay_on_their_devices(eight_devices):
  """Eight devices with two parts give the step of one device at once, under 'jit' and under 'pmap'."""
  _, _, batch = (taps.rows(x, np.arange(16) % taps.B) for x in taps.example())
  mesh, student, method = sharding.make_mesh(), taps.peer(), build.method({'kd': {'weight': 1.0}}, 6)
  t = student.apply(taps.peer(1).init(jax.random.key(9), batch), batch)[0]
  (wanted, losses), _ = updates(student, method, t, batch)
  task, tx, gradient = build.task({'name': 'classification'}), optax.sgd(1.0), accumulate.in_parts(2)
  for how, axis in (('jit', None), ('pmap', sharding.AXIS)):
    state = jax.device_put(step.make_init(student, method, tx)(0, t, batch), sharding.replicated(mesh))
    update = step.make_update(student, task, method, tx, axis=axis, gradient=gradient)
    update = sharding.compile_update(update, mesh, how, False, t, 16)
    if how == 'pmap':  # two rows a device are two parts of one
      assert len(batch['x']) // mesh.size == 2
    new, result = update(state, sharding.to_global_arrays(t, mesh), sharding.to_global_arrays(batch, mesh))
    close((new.params, result), (wanted.params, losses))


@pytest.mark.whole
@pytest.mark.parametrize(
  'config',
  [
    {'model': 'vit', 'width': 8, 'depth': 2, 'heads': 2, 'patch': 4, 'dropout': 0.3},
    {'model': 'resnet', 'widths': (4, 8), 'blocks': (1, 2), 'patch': 2},
  ],
  ids=lambda c: c['model'],
)
def test_a_forward_made_anew_has_the_same_gradient(config):
  model, rng = functional.functions(build.module(config, {'num_classes': 3}), {}), jax.random.key(1)
  batch = {'image': jax.random.normal(rng, (8, 16, 16, 3))}
  variables = jax.jit(model.init)(jax.random.key(0), batch)

  def loss(params, model):
    s, stats = model.apply({**variables, 'params': params}, batch, train=True, rng=rng)
    return jnp.sum(s['logits'] ** 2), stats

  def kept(model):
    return memory.size(
      jax.eval_shape(lambda p: jax.vjp(lambda p: loss(p, model)[0], p)[1], variables['params'])
    )

  both = model, remat.remat(model)
  grads = [jax.jit(jax.grad(lambda p, m=m: loss(p, m), has_aux=True))(variables['params']) for m in both]
  close(*grads, rtol=1e-4, atol=1e-4)
  assert kept(both[1]) < 0.6 * kept(both[0])


def test_what_does_not_fit_is_said_before_it_is_compiled(experiment, config, monkeypatch):
  config.student.train.accumulate = 2
  monkeypatch.setattr(memory, 'free', lambda mesh: 1000.0)
  monkeypatch.setattr(sharding, 'compile_update', None)
  with pytest.raises(KdjaxError, match='teacher: .* choose smaller options of teacher.model'):
    stages.run(experiment(), ('baseline',))  # known from its weights alone
  monkeypatch.setattr(validate, '_check_memory', lambda *_: None)
  with pytest.raises(KdjaxError, match=r'baseline: .* at least .*kB .* 1 kB: lower .*batch_size \(16\)') as e:
    stages.run(experiment(), ('baseline',))
  assert '\n' not in str(e.value) and 'student.train.accumulate (2)' in str(e.value)
  assert 'run.members_per_program' not in str(e.value) and 'seeds' not in str(e.value)


def test_what_a_step_makes_on_its_way_counts(experiment, monkeypatch):
  result = mock.Mock()
  result.lower().compile().memory_analysis().temp_size_in_bytes = 10**15
  monkeypatch.setattr(sharding, 'compile_update', lambda *_: result)
  with pytest.raises(KdjaxError, match='at least 1e.03 TB .*1e.03 TB for what a step makes on its way'):
    stages.run(experiment(), ('baseline',))


def test_free_memory_is_a_share_of_the_machines():
  there = memory.free(sharding.make_mesh())
  assert 1e6 < there < 1e15


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'accumulate': 3}, 'does not divide into 3 parts'),
    ({'accumulate': 0}, 'student.train.accumulate is 0'),
    ({'accumulate': 2, 'optimiser': {'name': 'dot', 'lr': 0.1}}, 'accumulates nothing'),
  ],
)
def test_parts_that_cannot_be(experiment, config, changes, said):
  if 'optimiser' in changes:
    config.student.train.optimiser = changes.pop('optimiser')
  config.student.train.update(changes)
  with pytest.raises(KdjaxError, match=said):
    stages.run(experiment(), ('baseline',))


def test_parts_and_relations_exclude_each_other(experiment, config):
  config.student.train.accumulate = 2
  config.methods = {'rkd': {'weight': 1.0, 'student': 'image/embed', 'teacher': 'image/embed'}}
  with pytest.raises(KdjaxError, match='relates the examples of the whole batch'):
    stages.run(experiment(), ('teacher',))


@pytest.mark.whole
def test_a_student_in_parts(experiment, config):
  config.student.train.update(accumulate=2, remat=True)
  stages.run(exp := experiment(), ('baseline',))
  assert exp.done('baseline')
