"""The same batch gives the same update, however it is split, padded or spread over devices."""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import taps
from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages
from kdjax.input import pipeline, splits
from kdjax.models.multimodal.fusion import Fusion
from kdjax.models.multimodal.two_tower import TwoTower
from kdjax.nn import missing_modality
from kdjax.training import optimizers, schedules, sharding, step
from kdjax.training.evaluate import make_evaluate
from kdjax.training.schemes import dot

# Batch norm sees the whole batch under jit; the rest of a model sees an example at a time.
EMBEDS = {'student': 'image/embed', 'teacher': 'image/embed'}
RELATIONS = {'kd': {'weight': 1.0}, 'rkd': {'weight': 1.0, **EMBEDS}}


@pytest.fixture
def parts(experiment, config):
  """(student, teacher, its variables, update, state, batch) of the student's step."""
  config.methods = RELATIONS
  exp = experiment()
  student, teacher = exp.model('student'), exp.model('teacher')
  batch = {k: jnp.asarray(v) for k, v in exp.data.train.take(np.arange(16)).items()}
  variables = teacher.init(jax.random.key(9), batch)
  _, t = step.make_teacher_forward(teacher, lambda batch: batch)(variables, batch)
  method, tx = build.method(RELATIONS, 6), optimizers.optimiser({'name': 'sgd', 'lr': 0.1}, 6)
  state = jax.jit(step.make_init(student, method, tx))(0, t, batch)
  update = jax.jit(step.make_update(student, exp.task, method, tx))
  return student, teacher, variables, update, state, t, batch


def close(a, b, rtol=2e-5, atol=2e-6):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def test_eight_devices_give_the_update_of_one(parts, eight_devices):
  _, _, _, update, state, t, batch = parts
  mesh = sharding.make_mesh()
  spread = {
    k: v for k, v in sharding.to_global_arrays({k: np.asarray(v) for k, v in batch.items()}, mesh).items()
  }
  outputs = sharding.to_global_arrays({k: np.asarray(v) for k, v in t.items()}, mesh)
  copied = jax.device_put(state, sharding.replicated(mesh))
  new, losses = update(copied, outputs, spread)
  wanted, wanted_losses = update(state, t, batch)
  close(losses, wanted_losses)
  close(new.params, wanted.params, atol=2e-5)
  assert len(spread['label'].sharding.device_set) == 8


def test_padding_changes_no_evaluation(experiment, eight_devices):
  exp = experiment()
  student = exp.model('student')
  variables = jax.tree.map(lambda x: x[None], student.init(jax.random.key(0), exp.data.train.take([0])))
  results = []
  for mesh, size in ((sharding.make_mesh(), 8), (sharding.make_mesh(), 64), (sharding.make_mesh(), 16)):
    result = make_evaluate(student, exp.task, mesh, size)(variables, exp.data.test)
    assert len(result.gathered[0]['label']) == len(exp.data.test)
    results.append(result.metrics)
  for other in results[1:]:
    for name, value in results[0].items():
      np.testing.assert_allclose(other[name], value, rtol=1e-5, err_msg=name)


def test_sums_and_counts_add_up_over_parts(parts, experiment):
  """In evaluation mode: the sums of two halves are the sums of the whole, padding or not."""
  student, _, _, _, state, _, batch = parts
  task = experiment().task
  variables = {'params': state.params['student'], **state.stats['student']}

  def sums(batch):
    outputs, _ = student.apply(variables, batch, train=False)
    return task.metrics(outputs, batch)

  whole = sums(batch)
  halves = [sums({k: v[i::2] for k, v in batch.items()}) for i in (0, 1)]
  padded = {k: jnp.concatenate([v, v[:3]]) for k, v in batch.items()}
  padded['mask'] = jnp.array([1.0] * 16 + [0.0] * 3)
  for name, pair in whole.items():
    close(pair, [sum(x) for x in zip(*(h[name] for h in halves), strict=True)])
    close(pair, sums(padded)[name])


def test_pmap_refuses_relations(experiment, config, eight_devices):
  config.run.parallel, config.methods = 'pmap', RELATIONS
  with pytest.raises(KdjaxError, match='relates the examples'):
    stages.run(experiment())


def test_pmap_agrees_with_jit_without_batch_norm(eight_devices):
  _, _, batch = (taps.rows(x, np.arange(taps.B).repeat(2)) for x in taps.example())
  mesh, student, teacher = sharding.make_mesh(), taps.peer(), taps.peer(1)
  variables, method = teacher.init(jax.random.key(9), batch), build.method({'kd': {'weight': 1.0}}, 6)
  tx, task = optimizers.optimiser({'name': 'sgd', 'lr': 0.1}, 6), build.task({'name': 'classification'})
  look, rows = step.make_teacher_forward(teacher, lambda b: b), 2 * taps.B
  look = sharding.compile_teacher_forward(look, mesh, jax.eval_shape(look, variables, batch), rows)
  seen, t = look(variables, sharding.to_global_arrays(batch, mesh))
  results = []
  for how, axis in (('jit', None), ('pmap', sharding.AXIS)):
    state = jax.device_put(step.make_init(student, method, tx)(0, t, seen), sharding.replicated(mesh))
    update = step.make_update(student, task, method, tx, axis=axis)
    update = sharding.compile_update(update, mesh, how, method.relational, t, rows)
    for _ in range(3):
      state, losses = update(state, t, seen)
    results.append((state.params, losses))
  close(*results)


def test_a_scheduled_weight_acts_inside_its_window():
  result = schedules.weight_schedule(100, schedule='linear', start=0.2, stop=0.6, warmup=0.1)
  values = np.array([result(i) for i in range(100)])
  assert (values[:20] == 0).all() and (values[60:] == 0).all() and (values[20:60] > 0).all()
  assert values.argmax() in (28, 29, 30)
  assert schedules.weight_schedule(10)(9) == 1


@pytest.mark.parametrize('schedule', ['constant', 'linear', 'cosine', 'steps'])
def test_a_learning_rate_rises_and_falls(schedule):
  result = schedules.learning_rate(1.0, 100, schedule=schedule, warmup=0.1, boundaries=(0.5,), factor=0.5)
  values = np.array([result(i) for i in range(101)])
  assert values[0] == 0 and values[10] == pytest.approx(1.0)
  end = {'constant': 1.0, 'linear': 0.0, 'cosine': 0.0, 'steps': 0.5}[schedule]
  assert values[100] == pytest.approx(end, abs=0.02)


def test_boundaries_are_shares_of_the_whole_training():
  """Also after a warm-up."""
  rate = schedules.learning_rate(1.0, 100, schedule='steps', warmup=0.1, boundaries=(0.5, 0.8))
  assert [round(float(rate(n)), 6) for n in (0, 5, 10, 49, 51, 79, 81)] == [0, 0.5, 1, 1, 0.1, 0.1, 0.01]


def test_a_large_gradient_is_clipped():
  params, gradient = {'w': jnp.zeros(4)}, {'w': jnp.full(4, 5.0)}
  for clip, norm in ((1.0, 1.0), (20.0, 10.0), (0.0, 10.0)):
    config = {'name': 'sgd', 'lr': 1.0, 'schedule': 'constant', 'clip': clip}
    tx = optimizers.optimiser(config, 10)
    update, _ = tx.update(gradient, tx.init(params), params)
    assert float(jnp.linalg.norm(update['w'])) == pytest.approx(norm)


def test_only_kernels_decay():
  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  for name in ('adamw', 'sgd'):
    tx = optimizers.optimiser({'name': name, 'lr': 0.1, 'schedule': 'constant', 'weight_decay': 0.5}, 10)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert (updates['kernel'] < 0).all() and (updates['bias'] == 0).all()


def test_batches_are_a_function_of_seed_and_step(experiment):
  source = experiment().data.train
  batches = pipeline.train_batches(source, 7, seed=3)
  seen = [next(batches) for _ in range(20)]
  again = pipeline.train_batches(source, 7, seed=3)
  first = [next(again) for _ in range(11)]
  state = again.get_state()
  resumed = pipeline.train_batches(source, 7, seed=3)
  resumed.set_state(state)
  for a, b in zip(seen, first + [next(resumed) for _ in range(9)], strict=True):
    np.testing.assert_array_equal(a['id'], b['id'])
    np.testing.assert_array_equal(a['epoch'], b['epoch'])
  other = next(pipeline.train_batches(source, 7, seed=4))
  assert not np.array_equal(other['id'], seen[0]['id'])
  n = len(source)
  ids = np.concatenate([b['id'] for b in seen])[: 2 * n]
  np.testing.assert_array_equal(np.concatenate([b['epoch'] for b in seen])[: 2 * n], np.repeat([0, 1], n))
  assert len(set(ids[:n])) == n and len(set(ids[n:])) == n and (ids[:n] != ids[n:]).any()


@pytest.mark.parametrize('examples, batch_size', [(20, 7), (7, 20), (64, 64)])
def test_older_workdirs_keep_the_order_of_grain(examples, batch_size):
  source = splits.InMemorySplit({'id': np.arange(examples)})
  order = grain.MapDataset.range(examples)
  order = order if batch_size == examples else order.seed(3).shuffle()
  batches = pipeline.train_batches(source, batch_size, 3, index_shuffle=True)
  ids = np.concatenate([next(batches)['id'] for _ in range(6)])
  np.testing.assert_array_equal(ids, [order.repeat()[i] for i in range(len(ids))])


def test_the_processes_of_a_pod_share_a_batch(monkeypatch):
  source = splits.InMemorySplit({'id': np.arange(10)})
  first = [next(b) for b in [pipeline.train_batches(source, 4, seed=3)] for _ in range(6)]
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  for process in range(2):
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    batches = pipeline.train_batches(source, 4, seed=3)
    for whole in first:
      np.testing.assert_array_equal(next(batches)['id'], whole['id'][process::2])


def test_an_evaluation_reads_in_order_and_marks_its_padding(experiment):
  source = experiment().data.train
  batches = list(pipeline.eval_batches(source, 7))
  masks, ids = (np.concatenate([b[k] for b in batches]) for k in ('mask', 'id'))
  np.testing.assert_array_equal(ids[masks > 0], source.arrays['id'])
  assert len(masks) % 7 == 0 and masks.sum() == len(source) and not masks[len(source) :].any()


def test_a_view_is_a_function_of_seed_epoch_and_id(experiment):
  batch = experiment().data.train.take(np.arange(6)) | {'epoch': np.zeros(6, np.int32)}
  view = jax.jit(build.make_augment({'augment': ('flip', 'crop')}, 0))
  one, rows = view(batch)['image'], np.array([3, 1])
  np.testing.assert_array_equal(view({k: v[rows] for k, v in batch.items()})['image'], one[rows])
  later = view(batch | {'epoch': batch['epoch'] + 1})['image']
  assert (later != one).any() and one.shape == batch['image'].shape


def test_two_momenta_that_are_alike_are_one():
  """DOT with a difference of 0 is SGD; with one it is not, unless there is nothing to distil."""
  _, t, batch = taps.example()
  student, task = taps.peer(), build.task({'name': 'classification'})
  method, nothing = build.method({'kd': {'weight': 1.0}}, 6), build.method({}, 6)

  def after(tx, result, make, n=3):
    state = jax.jit(step.make_init(student, result, tx))(0, t, batch)
    update = jax.jit(make(student, task, result, tx))
    for _ in range(n):
      state, losses = update(state, t, batch)
    return state.params, losses

  options = {'lr': 0.1, 'schedule': 'constant', 'momentum': 0.9}
  sgd = optimizers.optimiser({'name': 'sgd', **options}, 6)
  equal, different = (optimizers.optimiser({'name': 'dot', 'delta': d, **options}, 6) for d in (0.0, 0.075))
  close(after(equal, method, dot.make_update), after(sgd, method, step.make_update))
  close(after(different, nothing, dot.make_update), after(sgd, nothing, step.make_update))
  with pytest.raises(AssertionError):
    close(after(different, method, dot.make_update), after(sgd, method, step.make_update))


def test_a_dropped_modality_is_absent_and_never_all_of_them():
  inputs = {'image': np.ones((4000, 1)), 'text': np.ones((4000, 3)), 'text/present': np.arange(4000) % 2}
  result = missing_modality.drop_modalities(jax.random.key(0), inputs, {'image': 0.3, 'text': 0.5})
  image, text = (np.asarray(result[f'{k}/present']) for k in ('image', 'text'))
  assert image.mean() == pytest.approx(0.7 + 0.15, abs=0.03)
  assert (text[::2] == 0).all() and text[1::2].mean() == pytest.approx(0.5 + 0.15, abs=0.03)
  assert (np.maximum(image, text)[1::2] == 1).all()


def test_a_fusion_keeps_what_it_takes_no_notice_of():
  inputs = {'image': np.ones((8, 2, 2, 3), np.float32), 'text': np.ones((8, 3), np.int32)}
  result = missing_modality.drop_modalities(
    jax.random.key(0), inputs, {'image': 0.9, 'text': 0.9}, hidden=False
  )
  assert np.all(result['image'] == 1) and 0 < np.sum(result['image/present']) < 8
  assert Fusion.IGNORES_ABSENT and not hasattr(TwoTower, 'IGNORES_ABSENT')


def test_what_is_dropped_leaves_nothing_behind():
  image = np.full((64, 2, 2, 3), 255, np.uint8)
  inputs = {'image': image, 'words': np.ones((64, 3, 2)), 'words/mask': np.ones((64, 3))}
  result = missing_modality.drop_modalities(jax.random.key(0), inputs, {'image': 0.5, 'words': 0.5})
  for name in ('image', 'words'):
    gone = np.asarray(result[f'{name}/present']) == 0
    assert 0 < gone.sum() < 64 and not np.any(result[name][gone]) and np.all(result[name][~gone])
  assert np.all(np.asarray(result['words/mask']).any(-1) == np.asarray(result['words/present']))
  assert np.all((result['image/present'] + result['words/present']) > 0)


@pytest.mark.parametrize('name', ['crop_black', 'jitter'])
def test_a_moved_image_is_black_at_its_border(name):
  batch = {'image': np.full((50, 32, 32, 1), 9, np.uint8), 'id': np.arange(50), 'epoch': np.zeros(50, int)}
  moved = np.asarray(build.make_augment({'augment': (name,)}, 0)(batch)['image'])
  by = {'crop_black': 4, 'jitter': 2}[name]
  rows = (moved == 0).all((2, 3)).sum(1)
  assert moved.shape == batch['image'].shape and set(rows) == set(range(by + 1))
  assert np.all(moved[:, by:-by, by:-by] == 9)


def test_no_unit_outgrows_its_norm():
  params = {'kernel': jnp.ones((4, 3)) * jnp.array([1.0, 2, 0.1]), 'bias': jnp.ones(3)}
  config = {'name': 'sgd', 'lr': 1.0, 'schedule': 'constant', 'max_norm': 3.0}
  tx = optimizers.optimiser(config, 10)
  grads = {'kernel': -0.5 * jnp.ones((4, 3)), 'bias': -9 * jnp.ones(3)}
  updates, _ = tx.update(grads, tx.init(params), params)
  new = jax.tree.map(jnp.add, params, updates)
  np.testing.assert_allclose(np.linalg.norm(new['kernel'], axis=0), [3.0, 3.0, 1.2], rtol=1e-6)
  np.testing.assert_allclose(new['bias'], 10)


def test_everything_decays_where_it_is_asked():
  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  config = {'name': 'sgd', 'lr': 0.1, 'schedule': 'constant', 'weight_decay': 0.5, 'decay_all': True}
  tx = optimizers.optimiser(config, 10)
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  assert all((u < 0).all() for u in updates.values())


def test_a_student_is_trained_without_a_modality_and_judged_with_all(experiment, config):
  with config.unlocked():
    config.student.drop = {'image': 0.999}
  model, batch = experiment().model('student'), experiment().data.train.take(np.arange(8))
  variables = model.init(jax.random.key(0), batch)
  blind = batch | {'image/present': np.zeros(8, np.float32)}
  seen, _ = model.apply(variables, batch, train=True, rng=jax.random.key(1))
  np.testing.assert_array_equal(
    seen['logits'], model.apply(variables, blind, train=True, rng=jax.random.key(1))[0]['logits']
  )
  assert (model.apply(variables, batch)[0]['logits'] != model.apply(variables, blind)[0]['logits']).any()
