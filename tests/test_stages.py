"""The whole experiment on made data: what it leaves behind, and what it must never do."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from kdjax.experiment import stages
from kdjax.runtime.files import read_json
from kdjax.training import step, trainer
from kdjax.training.metrics_log import read_log
from kdjax.training.setup import LoopConfig

KEYS = {'values', 'mean', 'std', 'params', 'bytes', 'flops_per_example', 'latency_ms', 'throughput_per_s'}


def weights(folder):
  return {f.name: load_file(f) for f in sorted(folder.glob('*.safetensors'))}


def same(a, b):
  assert a.keys() == b.keys()
  return all(np.array_equal(a[f][k], b[f][k]) for f in a for k in a[f])


def test_it_leaves_results_reports_and_logs(experiment, config):
  config.methods = {
    'kd': {'weight': 1.0},
    'fitnet': {'weight': 1.0},
    'rkd': {'weight': 1.0, 'student': 'image/embed', 'teacher': 'image/embed'},
  }
  config.seeds = 2
  exp = experiment()
  results = stages.run(exp)
  stored = read_json(exp.workdir / 'results.json', dict, '')
  assert stored == json.loads(json.dumps(results, default=str))
  assert stored['stages'].keys() == {'teacher', 'baseline', 'student'}
  for name, stage in stored['stages'].items():
    assert stage.keys() >= KEYS
    assert len(stage['values']) == (1 if name == 'teacher' else 2)
    assert stage['mean'] == pytest.approx(np.mean(stage['values']))
    assert stage['std'] == pytest.approx(np.std(stage['values'], ddof=1) if len(stage['values']) > 1 else 0)
    tested = exp.evaluator(name)(exp.variables(name), exp.data.test).metrics
    assert stage['values'] == tested['top1'].tolist() and stage['others']['ece'] == tested['ece'].tolist()
  assert stored['verdict'] in ('better', 'inconclusive', 'worse')
  low, high = stored['interval']
  assert low <= stored['difference'] <= high and 'effect' in stored
  for page in ('report.md', 'report.html'):
    assert 'Student less baseline: ' in (text := (exp.workdir / page).read_text()) and '95 % interval' in text
  assert stored.keys() >= {
    'task',
    'metric',
    'higher_is_better',
    'gap_recovered',
    'p_value',
    'agreement',
    'kl_to_teacher',
    'ece',
  }
  assert '<svg' in (exp.workdir / 'report.html').read_text()
  assert (exp.workdir / 'report.md').read_text().startswith('# made on manifest')
  records = read_log(exp.folder('student') / 'metrics.jsonl')
  logged = set().union(*records)
  assert logged >= {'loss/task', 'loss/kd', 'loss/fitnet', 'loss/rkd', 'loss/total', 'eval/top1', 'time/step'}
  assert [r['step'] for r in records] == sorted(r['step'] for r in records)
  assert len(records[0]['loss/kd']) == 2


def test_the_teacher_is_not_touched_and_not_in_the_students_checkpoint(experiment):
  exp = experiment()
  stages.run(exp, ('teacher',))
  before = weights(exp.folder('teacher'))
  setup = stages.setup(exp, 'student')
  held = jax.tree.map(np.array, setup.teacher_variables)
  how = LoopConfig.of('last', exp.config['run'])
  trainer.train(setup, how, exp.folder('student'), 0)
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, held, setup.teacher_variables)))
  assert same(before, weights(exp.folder('teacher')))
  saved = json.loads((exp.folder('student') / 'checkpoints/6/tree/_METADATA').read_text())
  sizes = [
    np.prod(leaf['value_metadata']['write_shape'])
    for leaf in saved['tree_metadata'].values()
    if 'write_shape' in (leaf.get('value_metadata') or {})
  ]
  kept = sum(sizes)
  own = sum(
    x.size for x in jax.tree.leaves(exp.model('student').init(jax.random.key(0), exp.data.train.take([0])))
  )
  assert 0 < kept < 3.2 * own + 10  # weights and Adam's two moments


def test_a_second_run_does_nothing_again(experiment, capsys):
  first = experiment()
  stages.run(first, ('teacher', 'baseline'))
  before = weights(first.folder('baseline')), (first.folder('baseline') / 'stage.json').stat().st_mtime_ns
  capsys.readouterr()
  stages.run(experiment(), ('teacher', 'baseline'))
  assert before[1] == (first.folder('baseline') / 'stage.json').stat().st_mtime_ns
  assert 'done before' in capsys.readouterr().out


def test_the_baseline_is_the_student_without_its_teacher(experiment, config):
  """With a weight of nothing on the teacher, the two are the same to the last bit."""
  config.methods.kd.weight = 0.0
  exp = experiment()
  stages.run(exp, ('teacher', 'baseline', 'student'))
  assert same(weights(exp.folder('baseline')), weights(exp.folder('student')))


@pytest.mark.whole
def test_every_seed_is_the_same_alone_and_in_company(experiment, config, monkeypatch):
  """On CPU to the last bit; where all seeds are one program, as on a GPU, up to rounding."""
  # Adam makes much of the rounding of a gradient that is almost 0.
  config.student.train.optimiser.update(name='sgd', lr=0.1)
  config.seeds = 2
  stages.run(together := experiment('together'), ('baseline',))
  with monkeypatch.context() as patched:
    patched.setattr(jax, 'default_backend', lambda: 'gpu')
    stages.run(vectorised := experiment('vectorised'), ('baseline',))
  config.seeds = 1
  stages.run(alone := experiment('alone'), ('baseline',))
  one, exact, near = (
    load_file(e.folder('baseline') / 'seed_0.safetensors') for e in (alone, together, vectorised)
  )
  for name, wanted in one.items():
    np.testing.assert_array_equal(exact[name], wanted, err_msg=name)
    np.testing.assert_allclose(near[name], wanted, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_trained_teacher_is_taken_over(experiment, config):
  stages.run(first := experiment('first'), ('teacher',))
  config.teacher.init = str(first.folder('teacher') / 'seed_0.safetensors')
  stages.run(second := experiment('second'), ('teacher',))
  assert same(weights(first.folder('teacher')), weights(second.folder('teacher')))
  assert second.summary('teacher')['steps'] == 0


def test_few_labels_reach_student_and_baseline_alone(experiment, config):
  config.data.labels = 0.3
  data = experiment().data
  known = data.transfer_set.arrays['label'] >= 0
  assert 0.2 < known.mean() < 0.4 and len(data.labelled_subset) == known.sum()
  assert (data.train.arrays['label'] >= 0).all()
  assert set(data.labelled_subset.arrays['label']) == set(data.train.arrays['label'])
  np.testing.assert_array_equal(data.transfer_set.arrays['image'], data.train.arrays['image'])


def test_the_best_on_validation_is_kept(experiment, config):
  config.select, config.seeds = 'best', 2
  exp = experiment()
  stages.run(exp, ('baseline',))
  records = [r['eval/top1'] for r in read_log(exp.folder('baseline') / 'metrics.jsonl') if 'eval/top1' in r]
  result = stages.evaluate(exp, 'validation')['baseline']['top1']
  np.testing.assert_allclose(result, np.max(records, 0), rtol=1e-6)


def test_an_average_of_the_weights_is_what_is_kept(experiment, config):
  config.student.train.ema = 0.5
  stages.run(exp := experiment(), ('baseline',))
  config.student.train.ema = 0.0
  stages.run(plain := experiment('plain'), ('baseline',))
  assert not same(weights(exp.folder('baseline')), weights(plain.folder('baseline')))


def test_the_teachers_weights_are_an_argument_of_the_step(experiment):
  """As a closure they would be constants of the compiled program."""
  exp = experiment()
  stages.run(exp, ('teacher',))
  setup = stages.setup(exp, 'student')
  batch = {k: v[:8] for k, v in exp.data.train.take(np.arange(8)).items()} | {'epoch': np.zeros(8, np.int32)}
  look = step.make_teacher_forward(setup.teacher, setup.augment)
  text = jax.jit(look).lower(setup.teacher_variables, batch).as_text()
  constants = [line for line in text.splitlines() if 'stablehlo.constant' in line and 'dense<"0x' in line]
  assert not constants


def test_unknown_labels_take_no_part_in_any_metric(experiment):
  task = experiment().task
  labels = np.array([0, 1, 0, -1, -1, -1])
  logits = 20 * np.eye(2)[np.where(labels < 0, 1, labels)]
  assert task.finalize({'logits': logits, 'label': labels})['ece'] < 1e-3
  result = task.references({'label': labels}, {'label': labels})
  assert result['majority'] == pytest.approx(2 / 3)


def test_half_precision_reaches_the_layers(experiment, config):
  config.student.dtype = 'bfloat16'
  exp = experiment()
  model, batch = exp.model('student'), exp.data.train.take(np.arange(2))
  assert batch['image'].dtype == np.uint8
  outputs, _ = model.apply(model.init(jax.random.key(0), batch), batch)
  assert {k: v.dtype for k, v in outputs.items() if v.dtype != 'bfloat16'} == {}


@pytest.mark.whole
def test_a_real_training_improves(experiment, config):
  """Of the answers, a third is the most frequent one; the question alone gives two thirds."""
  config.student.train.steps, config.student.train.batch_size = 150, 32
  config.student.model.encoders.image.widths = (8, 16)
  config.run.update(eval_every=50, log_every=50, save_every=150)
  config.seeds = 1
  stages.run(exp := experiment(), ('baseline',))
  result = stages.evaluate(exp, 'test')['baseline']['top1']
  losses = [r['loss/task'][0] for r in read_log(exp.folder('baseline') / 'metrics.jsonl') if 'loss/task' in r]
  assert result[0] > 0.8 and losses[-1] < 0.3 * losses[0]
