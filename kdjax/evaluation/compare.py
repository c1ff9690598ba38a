"""The comparison: is the distilled student better than the same student trained alone?"""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax import registry, report
from kdjax.errors import KdjaxError
from kdjax.evaluation import (
  caption_metrics,
  class_results,
  cost,
  domain_results,
  exports,
  modality_robustness,
  ranking,
  significance,
)
from kdjax.input import splits
from kdjax.nn.layers import without_features
from kdjax.runtime import files, progress
from kdjax.tasks import classification
from kdjax.training import sharding
from kdjax.training.evaluate import make_evaluate
from kdjax.training.metrics_log import read_logs

VERSIONS = ('jax', 'flax', 'optax', 'numpy')


class Compared(NamedTuple):
  """One comparison, before it is written.

  Attributes:
    results: the content of results.json.
    curves: the logged records of each stage.
    cards: examples with the stages' answers, for the report.
    folder: of results.json and the reports.
  """

  results: dict
  curves: Mapping[str, Sequence[Mapping]]
  cards: Sequence[Mapping]
  folder: Path


def run(experiment: Any) -> dict:
  """Compares the student with its baseline, or every member of a cohort, and ranks these.

  Returns:
    The results of the comparison, or of a cohort the ranking.

  Raises:
    KdjaxError: if there is nothing to compare.
  """
  members = experiment.members
  if not experiment.config['cohort']:
    compared = compare(experiment)
    write(compared)
    return compared.results
  compared, failed, shared = {}, {}, ()
  for name, member in members.items():
    if member.trained('student'):
      compared[name] = compare(member)
      shared += (name,) if member.folder('baseline') == experiment.folder('baseline') else ()
    elif member.done('student'):
      failed[name] = member.summary('student')['failed_at']
    else:
      progress.say(f'{name}: not trained yet, and left out')
  if not compared:
    raise KdjaxError(f'{experiment.workdir} holds no finished student to compare: run the student first.')
  results = ranking.corrected({name: one.results for name, one in compared.items()})
  ranked = ranking.rank(results, failed, shared, experiment.command)
  for name, one in compared.items():
    write(one._replace(results=results[name]), shown=False)
  if not jax.process_index():
    report.write_ranking(ranked, experiment.workdir)
    progress.console.print(report.ranking.table(ranked))
    progress.say(f'report: {experiment.workdir / "ranking.html"}')
  return ranked


def compare(experiment: Any) -> Compared:
  """Evaluates every finished stage on the test split."""
  config, data, task = experiment.config, experiment.data, experiment.task
  present = [s for s in report.words.STAGES if experiment.trained(s) and experiment.has_outputs(s)]
  if not present:
    raise KdjaxError(f'{experiment.workdir} holds no finished stage to compare: run one first.')
  variables = {s: experiment.variables(s) for s in present}
  evaluated = {}
  for stage in present:
    name = config['name'] if experiment.cohort and stage == 'student' else stage
    title = f'{name}: {config["data"]["test"]}'

    def evaluate(stage=stage, title=title):
      return experiment.evaluator(stage)(variables[stage], data.test, title)

    key = 'evaluated', experiment.folder(stage)
    evaluated[stage] = evaluate() if stage == 'student' else experiment.cached(key, evaluate)
  costs = _costs(experiment, variables)
  robustness = _robustness(experiment, variables) if any(config['modality_robustness'].values()) else {}
  stages = {}
  for stage in present:
    metrics = evaluated[stage].metrics
    values = metrics[task.metric].tolist()
    others = {k: v for k, v in metrics.items() if k not in (task.metric, 'loss')}
    trained = experiment.summary(stage)
    stages[stage] = {
      'values': values,
      'mean': float(np.mean(values)),
      'std': float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
      **costs[stage],
      **{k: trained[k] for k in ('wall_time_s', 'steps', 'update_s', 'members', 'training')},
      **{k: float(v.mean()) for k, v in others.items()},
      'others': {k: v.tolist() for k, v in others.items()},
    }
    if stage != 'teacher' and 'teacher' in evaluated:
      teacher_outputs, outputs = evaluated['teacher'].gathered, evaluated[stage].gathered
      teacher_outputs = teacher_outputs if len(teacher_outputs) > 1 else [teacher_outputs[0]] * len(outputs)
      comparisons = [task.compare(*pair) for pair in zip(teacher_outputs, outputs, strict=True)]
      stages[stage] |= {k: float(np.mean([e[k] for e in comparisons])) for k in comparisons[0]}
      stages[stage]['others'] |= {f'{k} (teacher)': [e[k] for e in comparisons] for k in comparisons[0]}
  gathered = {stage: e.gathered for stage, e in evaluated.items()}
  domains = domain_results.measure(gathered, task, data.dataset.domains)
  results = {
    'name': config['name'],
    'dataset': config['data']['name'].strip('<>').split(' ')[0] or Path(config['data']['path']).name,
    'task': config['task']['name'],
    'metric': task.metric,
    'higher_is_better': task.higher_is_better,
    'stages': stages,
    'references': _references(task, data, data.dataset.splits[config['data']['test']]),
    **_significance(stages, task, len(data.test)),
    **({'modality_robustness': robustness} if robustness else {}),
    **({'exports': exported} if (exported := exports.recorded(experiment.workdir)) else {}),
    **(_of_classes(gathered, data.dataset.classes) if task.label == 'class' else {}),
    **({'also': also} if (also := _also(experiment, variables)) else {}),
    **({'domains': domains} if domains else {}),
    'losses': _losses(config),
    **{k: stages.get('student', {}).get(k) for k in ('agreement', 'kl_to_teacher', 'ece')},
    'selection': {'last': 'last step', 'best': 'best on validation, per seed'}[config['select']],
    'seeds': list(experiment.seeds('student')),
    'redrawn': list(config['redraw']),
    'split': config['data']['test'],
    'n_examples': len(data.test),
    'n_train': {
      'teacher': len(data.train),
      **({'ceiling': len(experiment.source('ceiling'))} if 'ceiling' in present else {}),
      'baseline': len(data.labelled_subset),
      'student': len(data.transfer_set),
    },
    'data_fingerprint': data.dataset.fingerprint,
    'data_licence': data.dataset.licence,
    'hardware': hardware(),
    'versions': {'python': platform.python_version()} | {v: metadata.version(v) for v in VERSIONS},
    'command': experiment.command,
    'config': config,
  }
  curves, cards = {}, ()
  if not jax.process_index():
    curves = {s: read_logs(experiment.folder(s)) for s in present}
    examples = data.dataset.splits[config['data']['test']]
    cards = task.cards({s: e.gathered[0] for s, e in evaluated.items()}, examples, data.dataset.classes)
  return Compared(results, curves, cards, experiment.workdir)


def write(compared: Compared, shown: bool = True) -> None:
  """Writes results.json and the reports, and prints the table if `shown`."""
  if jax.process_index():
    return
  files.write_json(compared.folder / 'results.json', compared.results)
  report.write(compared.results, compared.curves, compared.cards, compared.folder)
  if shown:
    progress.console.print(report.table(compared.results))
    progress.say(f'report: {compared.folder / "report.html"}')


def _costs(experiment, variables):
  """Stage -> cost of inference, measured once an architecture: two measurements would differ by noise."""
  outputs = experiment.config['teacher']['outputs']  # which cost nothing here
  measurable = {s: v for s, v in variables.items() if s != 'teacher' or not outputs}
  each = {experiment.architecture(s): (experiment.model(s), v) for s, v in measurable.items()}

  def measure():
    progress.say('measuring the cost of inference')
    test = experiment.data.test
    measured = {k: (model, jax.tree.map(lambda x: x[0], v)) for k, (model, v) in each.items()}
    taps = experiment.task.outputs(experiment.data.dataset)
    return cost.measure(measured, without_features(test.take(np.arange(min(256, len(test))))), taps)

  costs = experiment.cached(('costs', *sorted(each)), measure)
  missing = dict.fromkeys(next(iter(costs.values()), {}))
  return {s: costs[experiment.architecture(s)] if s in measurable else missing for s in variables}


def _robustness(experiment, variables):
  """The score of every stage for each subset of its modalities, and with noise; see `modality_robustness`.

  p of the paired test of student and baseline is corrected over all subsets.
  """
  config, task, data = experiment.config, experiment.task, experiment.data
  by_kind = {'subsets': {}, 'noise': {}}
  for stage, stacked in variables.items():
    config_of_stage = experiment.stage_config(stage)
    names = modality_robustness.modalities(config_of_stage['inputs'], data.test.take([0]))
    model = modality_robustness.with_missing(experiment.model(stage), names)
    run, rules = config['run'], config['run']['shard']['teacher' if stage == 'teacher' else 'student']
    mesh = sharding.make_mesh(run['mesh'])
    evaluator = make_evaluate(model, task, mesh, run['eval_batch'], gather=False, rules=rules)

    def evaluate(source, title, evaluator=evaluator, stacked=stacked):
      return evaluator(stacked, source, title).metrics[task.metric].tolist()

    settings = config['modality_robustness']
    measured = modality_robustness.measure(
      evaluate, data.test, tuple(names), settings['subsets'], settings['noise'], stage
    )
    for kind, scores in measured.items():
      for what, values in scores.items():
        by_kind[kind].setdefault(what, {})[stage] = values
  pairs = {k: v for k, v in by_kind['subsets'].items() if {'student', 'baseline'} <= v.keys()}
  step = 1 / len(data.test)
  tests = {k: _paired(v['student'], v['baseline'], task, step) for k, v in pairs.items()}
  p = {k: test.p for k, test in tests.items() if test.p is not None}
  adjusted = significance.false_discovery(list(p.values()))
  by_kind |= {'interval': {k: tests[k].interval for k in p}}
  return by_kind | {'p_adjusted': dict(zip(p, adjusted.tolist(), strict=True))}


def _paired(student, baseline, task, step):
  return significance.paired(student, baseline, task.higher_is_better, step)


def _significance(stages: Mapping, task, examples: int) -> dict:
  """The paired test of student and baseline; the resolution of a score is 1 / examples."""
  if not {'baseline', 'student'} <= stages.keys():
    unknown = ('gap_recovered', 'difference', 'interval', 'effect', 'p_value')
    return dict.fromkeys(unknown) | {'verdict': 'inconclusive', 'note': ''}
  student, baseline = stages['student'], stages['baseline']
  test = _paired(student['values'], baseline['values'], task, 1 / examples)
  gap = stages.get('teacher', baseline)['mean'] - baseline['mean']
  closes = gap > 0 if task.higher_is_better else gap < 0
  share = (student['mean'] - baseline['mean']) / gap if closes else None
  outcome = {k: getattr(test, k) for k in ('difference', 'interval', 'effect', 'verdict', 'note')}
  return {'gap_recovered': share, 'p_value': test.p, **outcome}


def _of_classes(gathered, classes) -> dict:
  """`class_results.measure`; {} of a task whose outputs are no class scores."""
  each = [g for seeds in gathered.values() for g in seeds]
  scores = all(
    {'logits', 'label'} <= g.keys() and g['logits'].shape[1:] == (len(classes),) and g['label'].ndim == 1
    for g in each
  )
  return class_results.measure(gathered, classes) if each and scores else {}


def _also(experiment, variables) -> dict:
  """Split -> 'count' of examples, and 'stages': stage -> a score a seed, of the further splits."""
  metric, scores = experiment.task.metric, {}
  for split, source in experiment.data.also.items():
    scores[split] = {'count': len(source), 'stages': {}}
    for stage, of_stage in variables.items():
      if stage == 'teacher' and experiment.config['teacher']['outputs']:
        continue  # it has none for this split

      def evaluate(stage=stage, of_stage=of_stage, split=split, source=source):
        return experiment.evaluator(stage)(of_stage, source, f'{stage}: {split}').metrics[metric].tolist()

      scores[split]['stages'][stage] = experiment.cached((split, experiment.folder(stage)), evaluate)
  return scores


def _losses(config) -> dict[str, str]:
  """Name of each term of the student's loss -> what it is, from the docstring of its module."""
  terms = {'task': 'the loss of the labels'} if config['task_weight'] else {}
  for name, entry in config['methods'].items():
    line = (registry.module('methods', entry.get('method', name)).__doc__ or '').strip().split('\n')[0]
    terms[name] = line.partition(' (')[0].rstrip('.')
  return terms


def _references(task, data, examples) -> dict[str, float]:
  """Scores of answers that need no model; {} where the data are not in memory."""
  if not all(isinstance(source, splits.InMemorySplit) for source in (data.train, data.test)):
    return {}
  train, test = data.train.arrays, data.test.arrays
  rules = data.dataset.heuristics if task.label == 'class' else {}
  scores = {k: classification.scored(rule(test), test['label'], task.metric) for k, rule in rules.items()}
  return task.references(train, test) | scores | caption_metrics.references(data, examples, task.metric)


def hardware() -> str:
  """The devices, in words."""
  device = jax.devices()[0]
  if device.platform != 'cpu':
    return f'{jax.device_count()} x {device.device_kind}'
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  return f'CPU, {cores} cores ({platform.machine()})'
