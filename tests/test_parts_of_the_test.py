"""Scores by domain and on further splits, the ceiling, macro F1, a baseline without unlabelled examples."""

import json

import jax
import numpy as np
import pytest

from kdjax import registry, report
from kdjax.errors import KdjaxError
from kdjax.evaluation import domain_results
from kdjax.experiment import build, data_checks, stages
from kdjax.experiment.few_labels import few_labels
from kdjax.input import cards as card_inputs
from kdjax.input.splits import InMemorySplit
from kdjax.report import cards
from kdjax.tasks.classification import classification, macro_f1
from kdjax.tasks.regression import regression

RNG = np.random.default_rng(0)


def test_macro_f1_is_the_mean_of_the_classes_that_occur():
  """By hand: class 0 is right 2 of 3 times and predicted twice, class 1 right 1 of 1 and predicted twice."""
  predicted, labels = np.array([0, 0, 1, 1, 3]), np.array([0, 0, 0, 1, -1])
  logits = np.eye(5)[predicted]
  assert macro_f1(logits, labels) == pytest.approx(np.mean([2 * 2 / (3 + 2), 2 * 1 / (1 + 2)]))
  labels[-1] = 4
  assert macro_f1(logits, labels) == pytest.approx(np.mean([0.8, 2 / 3, 0, 0]))
  assert macro_f1(logits[:0], labels[:0]) == 0.0


def test_top5_of_many_classes():
  logits, labels = RNG.standard_normal((200, 30)).astype(np.float32), RNG.integers(-1, 30, 200)
  metrics = classification().metrics({'logits': logits}, {'label': labels})
  total, count = metrics['top5']
  order = np.argsort(-logits, -1)[:, :5]
  assert (total, count) == (np.sum(order == labels[:, None]), np.sum(labels >= 0))
  assert 'top5' not in classification().metrics({'logits': logits[:, :20]}, {'label': labels})


def test_a_task_of_macro_f1_is_decided_by_it():
  task = classification(metric='macro_f1')
  gathered = {'logits': np.eye(3)[[0, 1, 1]], 'label': np.array([0, 1, 2])}
  assert task.whole and task.finalize(gathered)[task.metric] == pytest.approx((1 + 2 / 3) / 3)


@pytest.mark.parametrize('task', [classification(), classification(metric='macro_f1'), regression()])
def test_a_domain_is_scored_as_if_it_were_the_test(task):
  n, domain = 60, RNG.integers(0, 3, 60) * 2
  label = RNG.standard_normal(n).astype(np.float32) if task.label == 'number' else RNG.integers(0, 4, n)
  width = 1 if task.label == 'number' else 4
  seeds = [
    {'logits': RNG.standard_normal((n, width)).astype(np.float32), 'label': label, 'domain': domain}
    for _ in range(2)
  ]
  scores = domain_results.measure({'student': seeds}, task, ('a', 'b', 'c', 'd', 'e'))
  assert list(scores) == ['a', 'c', 'e']
  assert sum(part['count'] for part in scores.values()) == n
  for i, name in enumerate(scores):
    rows = domain == 2 * i
    for seed, value in zip(seeds, scores[name]['stages']['student'], strict=True):
      part = {k: v[rows] for k, v in seed.items()}
      if task.whole:
        expected = macro_f1(part['logits'], part['label'])
      elif task.label == 'class':
        expected = np.mean(part['logits'].argmax(-1) == part['label'])
      else:
        expected = np.mean((part['logits'][:, 0] - part['label']) ** 2)
      assert value == pytest.approx(expected, rel=1e-4)


def test_references_are_of_the_metric():
  labels = np.array([0] * 9 + [1])
  arrays = {'label': labels, 'text': np.zeros((10, 3), np.int32)}
  by_metric = {m: classification(metric=m).references(arrays, arrays) for m in ('top1', 'macro_f1')}
  assert by_metric['top1'] == {'majority': 0.9, 'text-only lookup': 0.9}
  f1 = (2 * 9 / 19 + 0) / 2
  assert by_metric['macro_f1'] == pytest.approx({'majority': f1, 'text-only lookup': f1})


def test_a_domain_without_labels_or_names_is_left_out():
  label = np.array([0, 1, -1, -1, 1, 0])
  seed = {'logits': np.eye(2)[[0, 1, 0, 0, 0, 0]], 'label': label, 'domain': np.array([0, 0, 1, 1, 2, -1])}
  scores = domain_results.measure({'student': [seed]}, classification(), ('a', 'b', 'c'))
  assert {k: v['stages']['student'] for k, v in scores.items()} == {'a': [1.0], 'c': [0.0]}
  assert domain_results.measure({'student': [{'domain': seed['domain']}]}, classification(), ('a', 'b')) == {}


def test_one_domain_or_none_has_no_table():
  seeds = [{'logits': np.eye(2), 'label': np.arange(2), 'domain': np.zeros(2, int)}]
  assert domain_results.measure({'student': seeds}, classification(), ('a', 'b')) == {}
  seeds[0].pop('domain')
  assert domain_results.measure({'student': seeds}, classification(), ('a', 'b')) == {}


@pytest.mark.parametrize(
  ('kind', 'labels'),
  [
    ('class', [0, -1, 2, -1]),
    ('number', [0.5, np.nan, -1.0, np.nan]),
    ('classes', [[0, 1], [-1, -1], [-1, 1], [-1, -1]]),
  ],
)
def test_a_baseline_has_no_batches_of_unlabelled_examples(kind, labels):
  source = InMemorySplit({'label': np.array(labels), 'id': np.arange(4)})
  transfer, labelled = few_labels(source, 1.0, 0, kind)
  assert transfer is source and labelled.arrays['id'].tolist() == [0, 2]
  assert few_labels(source, 1.0, 0, '')[1] is source  # a task without labels
  whole = InMemorySplit({'label': np.array(labels)[[0, 2]], 'id': np.arange(2)})
  assert few_labels(whole, 1.0, 0, kind)[1] is whole


def test_labels_of_another_form_are_for_the_checks_to_refuse():
  source = InMemorySplit({'label': np.array([[0, -1], [1, 1]]), 'id': np.arange(2)})
  assert few_labels(source, 1.0, 0, 'class')[1] is source


def test_the_ceiling_has_no_unlabelled_examples_either(config, experiment, monkeypatch):
  config.data.labels, config.ceiling = 0.5, True
  exp = experiment()
  arrays = dict(exp.data.transfer.arrays)
  arrays['label'] = np.where(np.arange(len(arrays['label'])) % 2, -1, arrays['label'])
  monkeypatch.setitem(exp.__dict__, 'data', exp.data._replace(transfer=InMemorySplit(arrays)))
  assert exp.source('ceiling').arrays['label'].min() >= 0
  assert len(exp.source('ceiling')) == (len(arrays['label']) + 1) // 2


def test_a_further_split_without_labels_is_refused_before_training(config, experiment, monkeypatch):
  config.data.also = ('validation',)
  exp = experiment()
  hidden = {k: np.full_like(v, -1) if k == 'label' else v for k, v in exp.data.validation.arrays.items()}
  without = exp.data._replace(validation=None, also={'validation': InMemorySplit(hidden)})
  monkeypatch.setitem(exp.__dict__, 'data', without)
  with pytest.raises(KdjaxError, match="'validation', which data.also names"):
    data_checks.check(exp)


def test_the_ceiling_is_the_baseline_with_all_labels(config, experiment, monkeypatch):
  config.data.labels = 0.3
  config.ceiling = True
  whole = experiment()
  sources = {s: stages.setup(whole, s).source.arrays for s in ('baseline', 'ceiling')}
  assert len(sources['ceiling']['label']) == len(whole.data.train) > len(sources['baseline']['label'])
  assert sources['ceiling']['label'].min() >= 0
  baseline, ceiling = (stages.setup(whole, s) for s in ('baseline', 'ceiling'))
  assert baseline.seeds == ceiling.seeds and baseline.steps == ceiling.steps and ceiling.teacher is None
  member = ceiling.members['student']
  assert member.task_weight == 1.0 and not jax.tree.leaves(member.method.init(jax.random.key(0), {}, {}, {}))


@pytest.mark.whole
def test_an_experiment_with_a_ceiling_and_further_splits(config, experiment, tmp_path):
  config.data.update(labels=0.5, also=('validation', 'train', 'test'))  # the test is scored anyway
  config.ceiling = True
  config.seeds = 2
  exp = experiment()
  results = stages.run(exp)
  assert list(results['stages']) == ['teacher', 'ceiling', 'baseline', 'student']
  assert results['n_train']['ceiling'] == results['n_train']['teacher'] > results['n_train']['baseline']
  assert results['also'].keys() == {'validation', 'train'}
  evaluated = stages.evaluate(exp, 'validation')
  for stage, values in results['also']['validation']['stages'].items():
    assert values == pytest.approx(evaluated[stage]['top1'])
  text = (exp.workdir / 'report.md').read_text()
  assert '## Other splits' in text and '| ceiling |' in text
  assert 'The same student with all labels, trained alone' in text
  assert 'ceiling' in (exp.workdir / 'report.html').read_text()
  config.data.also = ()  # only evaluation reads it
  assert 'also' not in stages.run(experiment())
  config.data.labels, config.name = 1.0, 'all'
  assert 'ceiling' not in stages.run(experiment('all'))['stages']


@pytest.mark.whole
def test_a_cohort_shares_its_ceiling(config, experiment):
  config.data.labels, config.ceiling = 0.5, True
  config.cohort = {'one': {'methods': {'kd': {}}}, 'two': {'methods': {'kd': {'temperature': 1.0}}}}
  exp = experiment()
  stages.run(exp)
  assert (exp.workdir / 'ceiling' / 'stage.json').exists()
  assert not (exp.workdir / 'one' / 'ceiling').exists()
  assert 'ceiling' in json.loads((exp.workdir / 'two' / 'results.json').read_text())['stages']


def test_a_method_gets_the_steps_of_the_training():
  method = build.method({'taid': {'rate': 0.0}}, steps=10)
  s, t = ({'logits': RNG.standard_normal((2, 3)).astype(np.float32)} for _ in range(2))
  _, stats = method.init(jax.random.key(0), s, t, {})
  for step in range(10):
    _, stats = method.loss({'taid': {}}, stats, s, t, {}, step=step, rng=jax.random.key(0))
  assert stats['taid']['t'] == pytest.approx(0.4 + 0.6 * 8 / 10)
  assert registry.module('methods', 'taid').STEPS == 'steps'


def results(ceiling, std=0.0):
  stages_ = {'ceiling': ceiling, 'baseline': 0.6, 'student': 0.7}
  values = {s: {'mean': v, 'std': std, 'values': [v, v]} for s, v in stages_.items()}
  return {'metric': 'top1', 'higher_is_better': True, 'stages': values, 'verdict': 'better'}


@pytest.mark.parametrize(
  ('ceiling', 'std', 'little'), [(0.9, 0.0, False), (0.605, 0.0, True), (0.65, 0.06, True)]
)
def test_a_report_says_whether_there_is_anything_to_gain(ceiling, std, little):
  notes = ' '.join(report.words.notes(results(ceiling, std)))
  assert 'The same student with all labels' in notes and ('would add little' in notes) == little


def test_a_card_shows_what_an_example_is():
  example = {
    'image': np.zeros((4, 4, 3), np.uint8),
    'video': np.zeros((8, 4, 5, 1), np.uint8),
    'skeleton': RNG.standard_normal((9, 6)).astype(np.float32),
    'audio': np.zeros(4000, np.float32),
    'text': 'a text',
    'audio/mask': np.ones(4000),
    'embedding': np.zeros(7, np.float32),
    'label': 3,
    'id': 5,
  }
  card = card_inputs.inputs(example, 0)
  assert set(card) == {'image', 'video', 'skeleton', 'audio', 'text'}
  drawn = dict(cards.pictures(card))
  assert drawn['frames of the input video'].shape == (4, 6 * 5, 1)
  assert drawn['input skeleton, over time'].shape == (60, 180, 3)
  assert 'spectrogram of the input sound' in drawn and drawn['input image'].shape == (4, 4, 3)
  assert card_inputs.inputs({'embedding': np.zeros(7, np.float32), 'id': 1}, 4) == {'text': 'example 4'}
