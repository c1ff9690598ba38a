"""What each stage of an experiment is given: the claims that its report makes."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from kdjax.evaluation import compare
from kdjax.experiment import build, stages
from kdjax.experiment.experiment import Experiment
from kdjax.training import optimizers, step, streams
from kdjax.types import Method, Model


def test_few_labels_are_few_for_the_student_too(experiment, config, monkeypatch):
  """Baseline and student see the same labels, the student the other examples without theirs."""
  config.data.labels = 0.3
  whole = experiment()
  monkeypatch.setattr(Experiment, 'one_teacher', lambda experiment, i=0: {})  # no teacher was trained
  sources = {stage: stages.setup(whole, stage).source.arrays for stage in ('teacher', 'baseline', 'student')}
  labels = {
    stage: dict(zip(s['id'].tolist(), s['label'].tolist(), strict=True)) for stage, s in sources.items()
  }
  n = len(whole.data.train)
  assert len(labels['teacher']) == len(labels['student']) == n
  assert min(labels['teacher'].values()) >= 0
  shown = {i: label for i, label in labels['student'].items() if label >= 0}
  assert shown == labels['baseline']
  assert 0 < len(shown) < 0.5 * n
  assert all(labels['teacher'][i] == label for i, label in shown.items())


def test_the_teacher_answers_in_evaluation_mode(experiment):
  """Its batch norms use what they learned, not the batch, and nothing is dropped."""
  whole = experiment()
  teacher, batch = whole.model('teacher'), whole.data.train.take(np.arange(8))
  variables = jax.jit(teacher.init)(jax.random.key(0), batch)
  _, t = step.make_teacher_forward(teacher, lambda batch: batch)(variables, batch)
  evaluated, _ = teacher.apply(variables, batch, train=False)
  trained, _ = teacher.apply(variables, batch, train=True, rng=jax.random.key(1))
  np.testing.assert_array_equal(t['logits'], evaluated['logits'])
  assert np.abs(trained['logits'] - evaluated['logits']).max() > 1e-3


def test_the_teacher_sees_what_the_student_sees(experiment, config):
  """One augmented batch goes through both."""
  config.student.train.augment = ('flip', 'crop')
  whole = experiment()
  teacher, batch = whole.model('teacher'), whole.data.train.take(np.arange(8))
  batch |= {'epoch': np.zeros(8, np.int32)}
  variables = jax.jit(teacher.init)(jax.random.key(0), batch)
  view = build.make_augment(whole.config['student']['train'], 0)
  augmented, t = step.make_teacher_forward(teacher, view)(variables, batch)
  assert np.any(augmented['image'] != batch['image'])
  np.testing.assert_array_equal(t['logits'], teacher.apply(variables, augmented, train=False)[0]['logits'])


def test_the_weight_of_a_loss_weighs_its_gradient(experiment, config):
  """The objective is task_weight x task + the weights of the methods x their means."""
  whole = experiment()
  student, batch = whole.model('student'), whole.data.train.take(np.arange(8))
  teacher = whole.model('teacher')
  variables = jax.jit(teacher.init)(jax.random.key(9), batch)
  t, _ = teacher.apply(variables, batch, train=False)
  tx = optimizers.optimiser({'name': 'sgd', 'lr': 1.0, 'schedule': 'constant'}, 6)

  def moved(task_weight, weight):
    method = build.method({'kd': {'weight': weight, 'temperature': 2.0}}, 6)
    state = jax.jit(step.make_init(student, method, tx))(0, t, batch)
    update = step.make_update(student, whole.task, method, tx, task_weight=task_weight)
    new, _ = jax.jit(update)(state, t, batch)
    return jax.tree.map(lambda a, b: a - b, new.params['student'], state.params['student'])

  labels, teacher_only, both = moved(1.0, 0.0), moved(0.0, 1.0), moved(0.5, 3.0)
  for a, b, c in zip(*map(jax.tree.leaves, (labels, teacher_only, both)), strict=True):
    np.testing.assert_allclose(0.5 * a + 3 * b, c, rtol=2e-4, atol=2e-6)
  assert max(np.abs(x).max() for x in jax.tree.leaves(teacher_only)) > 1e-4


def test_a_stage_is_set_up_as_its_config_says(experiment, config, monkeypatch):
  """Each has its own training; none sees the test split."""
  config.update_from_flattened_dict(
    {
      'seeds': 2,
      'teacher.train.augment': ('flip',),
      'teacher.train.steps': 8,
      'teacher.train.batch_size': 8,
      'student.train.ema': 0.5,
      'student.train.accumulate': 2,
      'student.train.remat': True,
    }
  )
  exp, decayed = experiment(), []
  monkeypatch.setattr(Experiment, 'one_teacher', lambda experiment, i=0: {})
  monkeypatch.setattr(Experiment, 'start', lambda experiment, stage, i=0: {'of': f'{stage} {i}'})
  monkeypatch.setattr(optimizers, 'optimiser', lambda config, steps: decayed.append(steps))
  batch = exp.data.train.take(np.arange(8)) | {'epoch': np.zeros(8, np.int32)}
  for stage in ('teacher', 'baseline', 'student'):
    setup = stages.setup(exp, stage)
    (member,), is_teacher = setup.members.values(), stage == 'teacher'
    assert setup.validation is exp.data.validation and setup.validation is not exp.data.test
    assert (setup.steps, setup.batch_size) == ((8, 8) if is_teacher else (6, 16))
    assert (member.parts, member.remat, member.average.ema) == (
      (1, False, 0.0) if is_teacher else (2, True, 0.5)
    )
    assert len(setup.seeds) == (1 if is_teacher else 2) and member.start == {'of': f'{stage} 0'}
    assert np.any(setup.augment(batch)['image'] != batch['image']) == is_teacher
    assert (setup.teacher is not None) == (stage == 'student')
    if stage != 'student':
      assert member.method.loss({}, {}, {}, {}, {}, step=0, rng=jax.random.key(0)) == ({}, {})
  assert decayed == [8, 6, 6]


def test_a_seed_that_is_drawn_anew_is_trained_on_its_draws(experiment, config, monkeypatch):
  config.seeds, config.redraw, config.data.labels = 2, ('labels', 'order', 'teacher'), 0.3
  exp, orders = experiment(), []
  monkeypatch.setattr(Experiment, 'one_teacher', lambda experiment, i=0: {'params': {'i': np.array(i)}})
  monkeypatch.setattr(Experiment, 'start', lambda experiment, stage, i=0: {'i': i})

  def train(setup, how, folder, seed, stopped):
    orders.append(seed)
    (member,) = setup.members.values()
    labels = setup.source.arrays['label']
    np.testing.assert_array_equal(labels, exp.source('student', len(orders) - 1).arrays['label'])
    assert setup.teacher_variables['params']['i'] == member.start['i'] == len(orders) - 1
    assert setup.seeds == streams.seeds(exp.seeds('student'), 'student')[len(orders) - 1 : len(orders)]
    return {name: {'wall_time_s': 0.0, 'steps': 6, 'failed_at': 1} for name in setup.members}

  monkeypatch.setattr(stages.trainer, 'train', train)
  monkeypatch.setattr(stages, '_write_summary', lambda *args: None)
  stages.train_stage(exp, 'student')
  assert orders == [config.seed, config.seed + 1]


def test_the_labels_loss_is_weighed_in_the_student_alone(experiment, config, monkeypatch):
  config.task_weight = 0.25
  exp = experiment()
  monkeypatch.setattr(Experiment, 'one_teacher', lambda experiment, i=0: {})  # no teacher was trained
  weights = {
    stage: [member.task_weight for member in stages.setup(exp, stage).members.values()]
    for stage in ('teacher', 'baseline', 'student')
  }
  assert weights == {'teacher': [1.0], 'baseline': [1.0], 'student': [0.25]}


@pytest.mark.parametrize('higher', [True, False])
def test_student_and_baseline_are_paired_by_seed(higher):
  """And the gap that the student closes is that of teacher and baseline."""
  sign = 1 if higher else -1
  values = {'teacher': [1.0], 'baseline': [0.5, 0.3, 0.4], 'student': [0.61, 0.42, 0.5]}
  each = {k: {'values': [sign * x for x in v], 'mean': sign * float(np.mean(v))} for k, v in values.items()}
  outcome = compare._significance(each, SimpleNamespace(higher_is_better=higher), 1000)
  expected = stats.ttest_rel(values['student'], values['baseline'])
  assert outcome['p_value'] == pytest.approx(expected.pvalue) and outcome['verdict'] == 'better'
  assert outcome['gap_recovered'] == pytest.approx(0.11 / 0.6)
  assert outcome['difference'] == pytest.approx(sign * 0.11)
  low, high = expected.confidence_interval()
  assert sorted(outcome['interval']) == pytest.approx(sorted((sign * low, sign * high)))


def test_a_method_knows_the_step():
  """Weights that follow a schedule, and dynamic methods, depend on it."""

  def loss(params, stats, s, t, batch, *, step, rng):
    return {'counted': (step * s['logits'].sum(), jnp.ones(()))}, stats

  student = Model(
    lambda rng, batch: {'params': {'w': jnp.ones(())}},
    lambda variables, batch, train=False, rng=None: ({'logits': variables['params']['w'] * batch['x']}, {}),
  )
  method = Method(lambda rng, s, t, batch: ({}, {}), loss)
  task = SimpleNamespace(loss=lambda s, batch: (jnp.zeros(()), jnp.ones(())))
  batch, tx, counted = {'x': jnp.arange(3.0)}, optax.sgd(0.0), []
  state = step.make_init(student, method, tx)(0, {}, batch)
  for _ in range(3):
    state, losses = step.make_update(student, task, method, tx)(state, {}, batch)
    counted.append(float(losses['counted'][0]))
  assert counted == [0.0, 3.0, 6.0]
