"""What each seed draws anew: the labels that are kept, the order of the data, the teacher."""

import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from kdjax.errors import KdjaxError
from kdjax.experiment import redraw, stages
from kdjax.training.metrics_log import read_logs

ALL = ('labels', 'order', 'teacher')


def weights(result, stage, seed):
  return load_file(result.folder(stage) / f'seed_{seed}.safetensors')


def equal(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.whole
def test_each_seed_is_an_experiment_of_its_own(experiment, config):
  """Seed 1 sees other labels, another order and another teacher; seed 0 is what it is without redrawing."""
  config.data.labels, config.seeds = 0.3, 2
  stages.run(plain := experiment('plain'), ('teacher', 'baseline', 'student'))
  config.redraw = ALL
  exp = experiment('redrawn')
  results = stages.run(exp)
  for stage in ('teacher', 'baseline', 'student'):
    assert equal(weights(exp, stage, 0), weights(plain, stage, 0)), stage
    assert not equal(weights(exp, stage, 1), weights(exp, stage, 0)), stage
  for stage in ('baseline', 'student'):
    assert not equal(weights(exp, stage, 1), weights(plain, stage, 1)), stage
  assert [len(results['stages'][s]['values']) for s in ('teacher', 'baseline', 'student')] == [2, 2, 2]
  assert (
    results['redrawn'] == list(ALL)
    and len(results['stages']['student']['others']['agreement (teacher)']) == 2
  )
  text = (exp.workdir / 'report.md').read_text()
  assert 'each draws initial weights, the labelled subset, the order of the data, the teacher' in text
  records = read_logs(exp.folder('student'))
  assert [r['step'] for r in records] == sorted(r['step'] for r in records)
  assert all(len(r['loss/total']) == 2 for r in records if 'loss/total' in r)
  assert any('eval/top1' in r for r in records)


def test_labels_are_drawn_from_the_seed_and_paired(experiment, config):
  config.data.labels, config.seeds, config.redraw = 0.3, 3, ('labels',)
  exp = experiment()
  known = [np.flatnonzero(exp.source('student', i).arrays['label'] >= 0) for i in range(3)]
  assert len({len(k) for k in known}) == 1
  assert not np.array_equal(known[0], known[1]) and not np.array_equal(known[1], known[2])
  for i in range(3):  # a baseline has the labels of the student of its seed
    np.testing.assert_array_equal(
      exp.source('baseline', i).arrays['id'], exp.data.train.arrays['id'][known[i]]
    )
  assert {redraw.order(exp.config, 'student', i) for i in range(3)} == {config.seed}
  assert exp.seeds('teacher') == (config.seed,)


def test_a_student_of_a_redrawn_teacher_hears_its_own(experiment, config):
  config.seeds, config.redraw = 2, ('teacher',)
  exp = experiment()
  stages.run(exp, ('teacher',))
  for i in range(2):
    inputs = stages.setup(exp, 'student', i=i).teacher_variables
    wanted = jax.tree.map(lambda x, i=i: x[i], exp.variables('teacher'))
    assert jax.tree.all(jax.tree.map(np.array_equal, inputs, wanted))


@pytest.mark.parametrize(
  'changes,message',
  [
    ({'redraw': ('labels',)}, 'data.labels is 1'),
    ({'redraw': ('teacher',), 'teacher.init': 'x.safetensors'}, 'whose weights are taken as they are'),
    ({'redraw': ('teacher',), 'teacher.source': 'store'}, 'a store holds the outputs of one'),
    ({'redraw': ('weights',)}, "list of 'labels' or 'order' or 'teacher'"),
  ],
)
def test_what_cannot_be_redrawn_is_one_line(experiment, config, changes, message):
  config.update_from_flattened_dict(changes)
  with pytest.raises(KdjaxError, match=message):
    stages.run(experiment())


@pytest.mark.whole
def test_a_cohort_redraws_for_all_of_its_members(experiment, config):
  """Its students of one seed share what that seed draws, and its report says what p covers."""
  config.data.labels, config.seeds, config.redraw = 0.3, 2, ('labels', 'order')
  config.methods = {'kd': {'weight': 1.0}}
  config.student.train.optimiser.update(name='sgd', lr=0.1)
  stages.run(alone := experiment('alone'), ('teacher', 'student'))
  config.cohort = {'kd': {}, 'mse': {'methods': {'logit_mse': {'weight': 1.0}}}}
  exp = experiment('cohort')
  shutil.copytree(alone.folder('teacher'), exp.folder('teacher'))
  ranked = stages.run(exp)
  for seed in range(2):
    assert equal(weights(exp.members['kd'], 'student', seed), weights(alone, 'student', seed))
  assert ranked['redrawn'] == ['labels', 'order']
  assert 'each draws initial weights, the labelled subset' in (exp.workdir / 'ranking.md').read_text()


def test_the_order_of_the_data_is_redrawn_for_each_seed(experiment, config, monkeypatch):
  config.seeds, config.redraw = 3, ('order',)
  exp, orders = experiment(), []

  def train(setup, how, folder, seed, stopped):
    orders.append((setup.seeds, seed))
    return {name: {'wall_time_s': 0.0, 'steps': 6, 'failed_at': 1} for name in setup.members}

  monkeypatch.setattr(stages.trainer, 'train', train)
  monkeypatch.setattr(stages, '_write_summary', lambda *args: None)
  stages.train_stage(exp, 'baseline')
  assert [seed for _, seed in orders] == [config.seed, config.seed + 1, config.seed + 2]
  assert len({seeds for seeds, _ in orders}) == 3  # and initial weights of its own
