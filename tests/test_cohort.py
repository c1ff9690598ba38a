"""Students that share a teacher's look at each batch: each as if it had been trained alone."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from kdjax.errors import KdjaxError
from kdjax.evaluation import ranking
from kdjax.experiment import stages
from kdjax.training import step

KD = {'kd': {'weight': 1.0, 'temperature': 2.0}}
RKD = {'rkd': {'weight': 1.0, 'student': 'image/embed', 'teacher': 'image/embed'}}


@pytest.fixture
def cohort(config):
  """`cohort(members)`: the made config with a cohort, and fewer steps."""
  config.methods = {}
  config.student.train.steps = 4

  def make(members):
    with config.unlocked():
      config.cohort = members
    return config

  return make


def weights(folder):
  return {f.name: load_file(f) for f in sorted(folder.glob('*.safetensors'))}


def same(a, b):
  assert a.keys() == b.keys() and a
  return all(np.array_equal(a[f][k], b[f][k]) for f in a for k in a[f])


@pytest.mark.whole
@pytest.mark.optimised
def test_every_member_is_what_it_is_alone(experiment, cohort, config):
  wide = {'methods': KD, 'student': {'model': {'width': 12}}}
  cohort({'kd': {'methods': KD}, 'rkd': {'methods': RKD}, 'wide': wide})
  stages.run(exp := experiment('cohort'))
  assert {f.name for f in exp.workdir.iterdir() if f.is_dir()} == {
    *('teacher', 'baseline', 'baselines', 'cohort', 'kd', 'rkd', 'wide')
  }
  assert all((exp.workdir / name / 'report.html').exists() for name in exp.members)
  assert '<svg' in (exp.workdir / 'ranking.html').read_text()
  ranked = {row['name']: row for row in json.loads((exp.workdir / 'ranking.json').read_text())['rows']}
  for name, row in ranked.items():  # a member's own report says what the ranking says of it
    own = json.loads((exp.workdir / name / 'results.json').read_text())
    assert (own['verdict'], own['p_adjusted']) == (row['verdict'], row['p_adjusted'])
  for name, changes in {'rkd': RKD, 'wide': KD}.items():
    cohort({})
    config.methods = changes
    config.teacher.init = str(exp.folder('teacher') / 'seed_0.safetensors')
    if name == 'wide':
      config.student.model.width = 12
    stages.run(alone := experiment(f'{name}_alone'), ('teacher', 'student'))
    assert same(weights(exp.workdir / name / 'student'), weights(alone.folder('student')))
  stages.run(alone, ('baseline',))
  assert same(weights(exp.members['wide'].folder('baseline')), weights(alone.folder('baseline')))


@pytest.mark.whole
def test_a_member_that_diverges_is_given_up_and_more_may_be_added(experiment, cohort, config):
  diverges = {'lr': 100.0, 'weight_decay': 1e6, 'clip': 0.0, 'name': 'sgd'}
  bad = {'student': {'train': {'optimiser': diverges}}, 'methods': KD}
  cohort({'kd': {'methods': KD}, 'bad': bad})
  stages.run(exp := experiment(), ('teacher', 'baseline', 'student'))
  assert exp.members['kd'].trained('student')
  assert exp.members['bad'].done('student') and not exp.members['bad'].trained('student')
  before = weights(exp.workdir / 'kd' / 'student')
  cohort({'kd': {'methods': KD}, 'bad': bad, 'worse': bad, 'rkd': {'methods': RKD}})
  config.run.members_per_program = 1  # each with a training, and checkpoints, of its own
  ranked = stages.run(again := experiment(), ('compare',))
  assert {r['name'] for r in ranked['rows']} == {'kd', 'bad'}
  ranked = stages.run(again := experiment())
  assert same(before, weights(again.workdir / 'kd' / 'student'))
  assert {r['name'] for r in ranked['rows']} == {'kd', 'rkd', 'bad', 'worse'}
  assert ranked['rows'][-1]['failed_at'] <= 4
  assert 'not finite' in (again.workdir / 'ranking.md').read_text()


@pytest.mark.parametrize(
  ('members', 'said'),
  [
    ({'kd': {'methods': {'kd': {'student': 'nothing'}}}}, "cohort.kd: .*'nothing'"),
    ({'kd': {'seeds': 3}}, "cohort.kd.*'seeds'"),
    ({'teacher': {}}, 'cohort.teacher names a folder'),
    ({'kd': 5}, 'cohort.kd is 5'),
    ({'kd': {'methods': {'kd': 5}}}, 'methods.kd is 5'),
    ({'kd': {'student': {'model': 'resnet'}}}, "'resnet'"),
    ({'kd': {'teacher': {'source': 'nobody'}}}, "teacher.source: 'nobody'"),
    ({'kd': {'student': {'train': {'steps': 3}}}}, "'student.train.steps'"),
  ],
)
def test_a_mistake_in_a_member_is_named(experiment, cohort, members, said):
  cohort(members)
  with pytest.raises(KdjaxError, match=said):
    stages.run(experiment(), ('student',))


@pytest.mark.whole
def test_a_student_teaches_itself(experiment, config):
  config.methods = KD
  config.teacher.source, config.student.train.ema = 'ema', 0.5
  stages.run(exp := experiment(), ('teacher', 'baseline', 'student'))
  assert not same(weights(exp.folder('student')), weights(exp.folder('baseline')))


@pytest.mark.whole
def test_the_past_is_renewed_once_an_epoch(experiment, config):
  config.methods = KD
  config.teacher.source = 'previous_epoch'
  stages.run(exp := experiment(), ('teacher',))
  setup = stages.setup(exp, 'student')
  (member,) = setup.members.values()
  epoch = -(-len(exp.data.transfer_set) // 16)
  assert member.average.previous_epoch == epoch > 1
  batch = {k: jax.numpy.asarray(v) for k, v in exp.data.transfer_set.take(np.arange(16)).items()}
  init = step.make_init(member.model, member.method, member.tx, ema=True, self_teacher=True)
  update = step.make_update(member.model, setup.task, member.method, member.tx, ema=member.average.decay())
  update = jax.jit(step.with_self_teacher(update, member.model))
  state = jax.jit(init)(0, {}, batch)
  first = jax.tree.map(np.array, state.ema)
  for _ in range(epoch - 1):
    state, _ = update(state, {}, batch)
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, state.ema)))
  state, _ = update(state, {}, batch)
  now = {'params': state.params['student'], **state.stats['student']}
  jax.tree.map(np.testing.assert_array_equal, state.ema, now)


def test_many_tests_at_once_are_corrected():
  def result(p, mean):
    stage = {'mean': mean, 'std': 0.01, 'values': [mean], 'update_s': mean, 'steps': 1}
    stage |= {'wall_time_s': 1.0, 'training': 'cohort/x'}
    stages_ = {'student': stage, 'baseline': stage | {'mean': 0.5}}
    result = dict.fromkeys(('dataset', 'metric', 'split', 'seeds', 'selection', 'n_examples', 'n_train'))
    result |= {'hardware': '', 'versions': {}, 'config': {'name': 'a/b', 'methods': {}}, 'gap_recovered': 0.1}
    result |= {'interval': None, 'effect': None, 'difference': mean - 0.5, 'verdict': 'better'}
    return result | {'stages': stages_, 'p_value': p, 'higher_is_better': True}

  results = {'a': result(0.04, 0.6), 'b': result(0.6, 0.4), 'c': result(None, 0.9)}
  ranked = ranking.rank(ranking.corrected(results), {'d': 3}, ('a', 'b'))
  assert ranked['training']['wall_time_s'] == 1.0 and ranked['stages']['baseline']['mean'] == 0.5
  rows = {r['name']: r for r in ranked['rows']}
  assert [r['name'] for r in ranked['rows']] == ['c', 'a', 'b', 'd']
  assert rows['a']['p_adjusted'] == pytest.approx(0.08) and rows['a']['verdict'] == 'inconclusive'
  assert rows['c']['own_baseline'] and not rows['a']['own_baseline']
  assert rows['c']['verdict'] == 'inconclusive' and rows['b']['cost'] == 1.0
