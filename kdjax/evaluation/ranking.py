"""The ranking of a cohort: its members against their baselines, and by score."""

import math
from collections.abc import Mapping, Sequence

from kdjax.evaluation import significance

# The keys of a comparison that a row of the ranking has too.
TEST = ('difference', 'interval', 'effect', 'p_value', 'p_adjusted', 'verdict', 'gap_recovered')


def corrected(results: Mapping[str, Mapping]) -> dict[str, dict]:
  """The comparisons of a cohort's members, with p corrected for the number of tests.

  'p_adjusted' is p corrected over all 'tests' by the false discovery rate (Benjamini & Hochberg 1995), and
  'verdict' that of the corrected p.
  """
  tested = [n for n, r in results.items() if r['p_value'] is not None]
  p = dict(zip(tested, significance.false_discovery([results[n]['p_value'] for n in tested]), strict=True))
  corrected_results = {}
  for name, result in results.items():
    adjusted = float(p[name]) if name in p else None
    verdict = significance.verdict(adjusted, result['difference'], result['higher_is_better'])
    corrected_results[name] = {**result, 'p_adjusted': adjusted, 'tests': len(tested), 'verdict': verdict}
  return corrected_results


def rank(
  results: Mapping[str, Mapping], failed: Mapping[str, int], shared: Sequence[str], command: str = ''
) -> dict:
  """Ranks members by their mean score on the test split.

  Args:
    results: member -> its comparison, as `corrected` gives it; one or more.
    failed: member -> the step at which its loss was not finite.
    shared: the members with the cohort's baseline; the others have other students, and so other baselines.
    command: the command line.

  Returns:
    'rows', best first, each a dict of name, mean, std, what `TEST` names, and cost (the time of its update
    against the cheapest member's), and what all share. A row of a failed member has its name and `failed_at`.
  """
  first = next(iter(results.values()))
  sign = 1 if first['higher_is_better'] else -1
  update_times = {n: r['stages']['student'].get('update_s') for n, r in results.items()}
  fastest = min((t for t in update_times.values() if t), default=None)
  rows = []
  for name, result in results.items():
    student, baseline = (result['stages'].get(s) for s in ('student', 'baseline'))
    rows.append(
      {
        'name': name,
        'mean': student['mean'],
        'std': student['std'],
        'values': student['values'],
        **{k: result[k] for k in TEST},
        'cost': update_times[name] / fastest if update_times[name] and fastest else None,
        'own_baseline': None if name in shared else baseline,
        'methods': result['config']['methods'],
      }
    )
  rows.sort(key=lambda row: (not math.isfinite(row['mean']), -sign * row['mean']))
  same = {k: first[k] for k in ('dataset', 'metric', 'higher_is_better', 'split', 'seeds', 'selection')}
  same |= {k: first[k] for k in ('n_examples', 'n_train', 'hardware', 'versions')}
  same |= {'redrawn': first.get('redrawn', [])}
  sources = {'teacher': next(iter(results))} | ({'baseline': shared[0]} if shared else {})
  students = [r['stages']['student'] for r in results.values()]
  trainings = {s['training']: s['wall_time_s'] for s in students}  # members share one
  return {
    'name': first['config']['name'].rpartition('/')[0],
    **same,
    'stages': {s: results[n]['stages'][s] for s, n in sources.items() if s in results[n]['stages']},
    'training': {'steps': first['stages']['student']['steps'], 'wall_time_s': sum(trainings.values())},
    'rows': rows + [{'name': n, 'failed_at': at} for n, at in failed.items()],
    'command': command,
  }
