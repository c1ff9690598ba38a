"""The members of a cohort against the one baseline that they share, and against each other."""

from collections.abc import Mapping

import numpy as np
from scipy import stats

ALPHA = 0.05  # of every test


def rank(results: Mapping[str, Mapping], failed: Mapping[str, int], command: str = '') -> dict:
  """Ranks members by their mean score on the test split.

  So many tests at once find something by chance: p is corrected over all members by the false
  discovery rate (Benjamini & Hochberg 1995), and the verdict is that of the corrected one.

  Args:
    results: member -> its comparison, as `results.json` holds it.
    failed: member -> the step at which its loss was not finite.
    command: how to make it again.

  Returns:
    'rows', best first, each a dict of name, mean, std, difference to the baseline, p_value,
    p_adjusted, verdict, gap_recovered and cost (the time of its update against the cheapest member's),
    and what all share. A row of a failed member has its name and `failed_at`.
  """
  if not results:
    return {'rows': [{'name': n, 'failed_at': at} for n, at in failed.items()], 'command': command}
  first = next(iter(results.values()))
  sign = 1 if first['higher_is_better'] else -1
  tested = [n for n, r in results.items() if r['p_value'] is not None]
  adjusted = dict(zip(tested, _false_discovery([results[n]['p_value'] for n in tested]), strict=True))
  took = {n: r['stages']['student'].get('update_s') for n, r in results.items()}
  least = min((t for t in took.values() if t), default=None)
  rows = []
  for name, found in results.items():
    student, baseline = (found['stages'].get(s) for s in ('student', 'baseline'))
    difference = student['mean'] - baseline['mean'] if baseline else None
    p = adjusted.get(name)
    clear = p is not None and p < ALPHA and difference
    rows.append(
      {
        'name': name,
        'mean': student['mean'],
        'std': student['std'],
        'values': student['values'],
        'difference': difference,
        'p_value': found['p_value'],
        'p_adjusted': p,
        'verdict': ('better' if sign * difference > 0 else 'worse') if clear else 'inconclusive',
        'gap_recovered': found['gap_recovered'],
        'cost': took[name] / least if took[name] and least else None,
        'methods': found['config']['methods'],
      }
    )
  rows.sort(key=lambda row: -sign * row['mean'])
  shared = {k: first[k] for k in ('dataset', 'metric', 'higher_is_better', 'split', 'seeds', 'selection')}
  shared |= {k: first[k] for k in ('n_examples', 'n_train', 'hardware', 'versions')}
  return {
    'name': first['config']['name'].rpartition('/')[0],
    **shared,
    'stages': {s: first['stages'][s] for s in ('teacher', 'baseline') if s in first['stages']},
    'training': {k: first['stages']['student'][k] for k in ('steps', 'wall_time_s')},
    'rows': rows + [{'name': n, 'failed_at': at} for n, at in failed.items()],
    'command': command,
  }


def _false_discovery(p: list[float]) -> np.ndarray:
  return stats.false_discovery_control(p) if p else np.zeros(0)
