"""The comparison: is the distilled student better than the same student trained alone?"""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import numpy as np
from scipy import stats

from kdjax import cost, files, parallel, pipeline, progress, ranking, report, senses
from kdjax.errors import KdjaxError
from kdjax.evaluate import make_evaluate
from kdjax.log import read_log

VERSIONS = ('jax', 'flax', 'optax', 'numpy')


def paired(
  student: Sequence[float], baseline: Sequence[float], higher_is_better: bool
) -> tuple[float | None, str]:
  """Two-sided paired t-test over seeds: (p, 'better' | 'inconclusive' | 'worse').

  Differences that are all alike but not 0 have no spread: p is 0 then, as the test has it in the limit, from
  three seeds on; two may agree by chance. None for p where there is nothing to test: fewer than two seeds, no
  difference at all, or a score that is not finite.
  """
  difference = np.asarray(student, np.float64) - np.asarray(baseline, np.float64)
  if len(difference) < 2 or not np.isfinite(difference).all() or not np.abs(difference).max() > 1e-9:
    return None, 'inconclusive'
  if np.ptp(difference) < 1e-9:  # alike, but for rounding
    p = 0.0 if len(difference) > 2 else None
  else:
    p = float(stats.ttest_rel(student, baseline).pvalue)
  if p is None or not p < ranking.ALPHA:
    return p, 'inconclusive'
  return p, 'better' if (difference.mean() > 0) == higher_is_better else 'worse'


def interval(student: Sequence[float], baseline: Sequence[float]) -> dict | None:
  """The paired difference over seeds: its 'mean', the 95 % interval of Student's t from 'low' to 'high', and
  'effect_size', the mean over the standard deviation of the differences (Cohen's d_z), None without a spread.

  None for fewer than two seeds, or a score that is not finite.
  """
  difference = np.asarray(student, np.float64) - np.asarray(baseline, np.float64)
  if len(difference) < 2 or not np.isfinite(difference).all():
    return None
  mean, std = float(difference.mean()), float(difference.std(ddof=1))
  half = float(stats.t.ppf(0.975, len(difference) - 1)) * std / np.sqrt(len(difference))
  effect = mean / std if std > 1e-9 else None
  return {'mean': mean, 'low': mean - half, 'high': mean + half, 'effect_size': effect}


def run(experiment: Any) -> dict:
  """Compares the student, or every member of a cohort and then all of them with each other.

  Returns:
    The results of the one comparison, or of a cohort the ranking.

  Raises:
    KdjaxError: if there is nothing to compare.
  """
  members = experiment.members
  if not experiment.config['cohort']:
    return compare(experiment)
  results, pages, failed, shared = {}, {}, {}, ()
  for name, member in members.items():
    if member.trained('student'):
      results[name], pages[name] = measure(member)
      shared += (name,) if member.folder('baseline') == experiment.folder('baseline') else ()
    elif member.done('student'):
      failed[name] = member.summary('student')['failed_at']
    else:
      progress.say(f'{name}: not trained yet, and left out')
  if not results:
    raise KdjaxError(f'{experiment.workdir} holds no finished student to compare: run the student first.')
  ranked = ranking.rank(results, failed, shared, experiment.command)
  for row in ranked['rows']:
    if 'failed_at' not in row:  # a member's own report says what the ranking says of it
      same = {k: row[k] for k in ('verdict', 'p_adjusted')} | {'tests': len(results)}
      write(members[row['name']], results[row['name']] | same, *pages[row['name']])
  if not jax.process_index():
    report.write_ranking(ranked, experiment.workdir)
    progress.console.print(report.ranking.table(ranked))
    progress.say(f'report: {experiment.workdir / "ranking.html"}')
  return ranked


def compare(experiment: Any) -> dict:
  """Evaluates every finished stage on the test split and writes results.json and the reports."""
  results, pages = measure(experiment)
  write(experiment, results, *pages)
  if not jax.process_index():
    progress.console.print(report.table(results))
    progress.say(f'report: {experiment.workdir / "report.html"}')
  return results


def write(experiment: Any, results: dict, curves: Mapping, cards: Sequence) -> None:
  """Writes results.json, report.md and report.html."""
  if not jax.process_index():
    files.write_json(experiment.workdir / 'results.json', results)
    report.write(results, curves, cards, experiment.workdir)


def measure(experiment: Any) -> tuple[dict, tuple[dict, list]]:
  """(The results of every finished stage on the test split, (training curves, answered examples)).

  Raises:
    KdjaxError: if no stage is finished.
  """
  config, data, task = experiment.config, experiment.data, experiment.task
  present = [s for s in ('teacher', 'baseline', 'student') if experiment.trained(s)]
  if not present:
    raise KdjaxError(f'{experiment.workdir} holds no finished stage to compare: run one first.')
  variables = {s: experiment.variables(s) for s in present}
  found = {}
  for stage in present:
    whose = config['name'] if experiment.cohort and stage == 'student' else stage
    title = f'{whose}: {config["data"]["test"]}'

    def evaluate(stage=stage, title=title):
      return experiment.judge(stage)(variables[stage], data.test, title)

    key = 'evaluated', experiment.folder(stage)
    found[stage] = evaluate() if stage == 'student' else experiment.once(key, evaluate)
  costs = _costs(experiment, variables)
  felt = _senses(experiment, variables) if any(config['senses'].values()) else {}
  stages = {}
  for stage in present:
    values = found[stage].metrics[task.metric].tolist()
    trained = experiment.summary(stage)
    stages[stage] = {
      'values': values,
      'mean': float(np.mean(values)),
      'std': float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
      **costs[stage],
      **{k: trained[k] for k in ('wall_time_s', 'steps', 'update_s', 'members', 'training')},
      **{k: float(v.mean()) for k, v in found[stage].metrics.items() if k not in (task.metric, 'loss')},
      'others': {k: v.tolist() for k, v in found[stage].metrics.items() if k not in (task.metric, 'loss')},
    }
    if stage != 'teacher' and 'teacher' in found:
      teacher = found['teacher'].gathered[0]
      each = [task.compare(teacher, mine) for mine in found[stage].gathered]
      stages[stage] |= {k: float(np.mean([e[k] for e in each])) for k in each[0]}
      stages[stage]['others'] |= {f'{k} (teacher)': [e[k] for e in each] for k in each[0]}
  results = {
    'name': config['name'],
    'dataset': config['data']['name'],
    'task': config['task']['name'],
    'metric': task.metric,
    'higher_is_better': task.higher_is_better,
    'stages': stages,
    'references': _references(task, data),
    **_judgement(stages, task),
    **({'senses': felt} if felt else {}),
    **{k: stages.get('student', {}).get(k) for k in ('agreement', 'kl_to_teacher', 'ece')},
    'selection': {'last': 'last step', 'best': 'best on validation, per seed'}[config['select']],
    'seeds': list(experiment.seeds('student')),
    'split': config['data']['test'],
    'n_examples': len(data.test),
    'n_train': {'teacher': len(data.train), 'baseline': len(data.labelled), 'student': len(data.few)},
    'data_fingerprint': data.dataset.fingerprint,
    'data_licence': data.dataset.licence,
    'hardware': hardware(),
    'versions': {'python': platform.python_version()} | {v: metadata.version(v) for v in VERSIONS},
    'command': experiment.command,
    'config': config,
  }
  curves = {s: read_log(experiment.folder(s) / 'metrics.jsonl') for s in present}
  examples = data.dataset.splits[config['data']['test']]
  cards = task.cards({s: e.gathered[0] for s, e in found.items()}, examples, data.dataset.classes)
  return results, (curves, cards)


def _costs(experiment, variables):
  """Stage -> cost of inference, of each architecture once: two figures would differ by noise alone."""
  each = {experiment.architecture(s): (experiment.model(s), v) for s, v in variables.items()}

  def measure():
    progress.say('measuring the cost of inference')
    test = experiment.data.test
    measured = {k: (model, jax.tree.map(lambda x: x[0], v)) for k, (model, v) in each.items()}
    taps = experiment.task.outputs(experiment.data.dataset)
    return cost.measure(measured, test.take(np.arange(min(256, len(test)))), taps)

  costs = experiment.once(('costs', *sorted(each)), measure)
  return {s: costs[experiment.architecture(s)] for s in variables}


def _senses(experiment, variables):
  """The score of every stage with each subset of its modalities, and in noise; see `kdjax.senses`.

  p of the paired test of student and baseline is corrected over all subsets.
  """
  config, task, data = experiment.config, experiment.task, experiment.data
  found = {'subsets': {}, 'noise': {}}
  for stage, stacked in variables.items():
    own = experiment.own(stage)
    names = senses.modalities(own['inputs'], data.test.take([0]))
    model = senses.deprived(experiment.model(stage), names)
    judge = make_evaluate(model, task, parallel.make_mesh(), config['run']['eval_batch'], gather=False)

    def evaluate(source, title, judge=judge, stacked=stacked):
      return judge(stacked, source, title).metrics[task.metric].tolist()

    asked = config['senses']
    measured = senses.measure(evaluate, data.test, tuple(names), asked['subsets'], asked['noise'], stage)
    for kind, scores in measured.items():
      for what, values in scores.items():
        found[kind].setdefault(what, {})[stage] = values
  pairs = {k: v for k, v in found['subsets'].items() if {'student', 'baseline'} <= v.keys()}
  tests = {k: paired(v['student'], v['baseline'], task.higher_is_better)[0] for k, v in pairs.items()}
  tests = {k: p for k, p in tests.items() if p is not None}
  adjusted = ranking.false_discovery(list(tests.values()))
  return found | {'p_adjusted': dict(zip(tests, adjusted.tolist(), strict=True))}


def _judgement(stages: Mapping, task) -> dict:
  if not {'baseline', 'student'} <= stages.keys():
    return {'gap_recovered': None, 'p_value': None, 'difference': None, 'verdict': 'inconclusive'}
  student, baseline = stages['student'], stages['baseline']
  p, verdict = paired(student['values'], baseline['values'], task.higher_is_better)
  gap = stages.get('teacher', baseline)['mean'] - baseline['mean']
  closes = gap > 0 if task.higher_is_better else gap < 0
  share = (student['mean'] - baseline['mean']) / gap if closes else None
  difference = interval(student['values'], baseline['values'])
  return {'gap_recovered': share, 'p_value': p, 'difference': difference, 'verdict': verdict}


def _references(task, data) -> dict[str, float]:
  """What no model is needed for; only where the data lie in memory."""
  if not all(isinstance(source, pipeline.Columns) for source in (data.train, data.test)):
    return {}
  return task.references(data.train.arrays, data.test.arrays)


def hardware() -> str:
  """Devices as a person would name them."""
  device = jax.devices()[0]
  if device.platform != 'cpu':
    return f'{jax.device_count()} x {device.device_kind}'
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  return f'CPU, {cores} cores ({platform.machine()})'
