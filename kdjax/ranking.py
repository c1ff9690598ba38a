"""The members of a cohort against their baselines, and against each other."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

ALPHA = 0.05  # of every test


def rank(
  results: Mapping[str, Mapping], failed: Mapping[str, int], shared: Sequence[str], command: str = ''
) -> dict:
  """Ranks members by their mean score on the test split.

  So many tests at once find something by chance: p is corrected over all members by the false
  discovery rate (Benjamini & Hochberg 1995), and the verdict is that of the corrected one.

  Args:
    results: member -> its comparison, as `results.json` holds it; one or more.
    failed: member -> the step at which its loss was not finite.
    shared: the members whose baseline is the cohort's; the others, whose students are other ones, have
      baselines of their own.
    command: how to make it again.

  Returns:
    'rows', best first, each a dict of name, mean, std, difference to the baseline, p_value,
    p_adjusted, verdict, gap_recovered and cost (the time of its update against the cheapest member's),
    and what all share. A row of a failed member has its name and `failed_at`.
  """
  first = next(iter(results.values()))
  sign = 1 if first['higher_is_better'] else -1
  tested = [n for n, r in results.items() if r['p_value'] is not None]
  adjusted = dict(zip(tested, false_discovery([results[n]['p_value'] for n in tested]), strict=True))
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
        'own_baseline': None if name in shared else baseline,
        'methods': found['config']['methods'],
      }
    )
  rows.sort(key=lambda row: -sign * row['mean'])
  same = {k: first[k] for k in ('dataset', 'metric', 'higher_is_better', 'split', 'seeds', 'selection')}
  same |= {k: first[k] for k in ('n_examples', 'n_train', 'hardware', 'versions')}
  whose = {'teacher': next(iter(results))} | ({'baseline': shared[0]} if shared else {})
  students = [r['stages']['student'] for r in results.values()]
  trainings = {s['training']: s['wall_time_s'] for s in students}  # members share one
  return {
    'name': first['config']['name'].rpartition('/')[0],
    **same,
    'stages': {s: results[n]['stages'][s] for s, n in whose.items() if s in results[n]['stages']},
    'training': {'steps': first['stages']['student']['steps'], 'wall_time_s': sum(trainings.values())},
    'rows': rows + [{'name': n, 'failed_at': at} for n, at in failed.items()],
    'command': command,
  }


def false_discovery(p: list[float]) -> np.ndarray:
  """p of several tests, corrected together (Benjamini & Hochberg 1995)."""
  return stats.false_discovery_control(p) if p else np.zeros(0)
