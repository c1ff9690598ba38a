"""The verdict is a paired test's, with an interval and the size of the effect, whatever the scores are."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from kdjax import report
from kdjax.evaluation import ranking, significance
from kdjax.evaluation.significance import paired
from kdjax.report import words

NAN = math.nan
ONE = {'values': [0.8, 0.82, 0.81], 'mean': 0.81, 'std': 0.01, 'steps': 1, 'wall_time_s': 1.0}


@pytest.mark.parametrize(
  ('student', 'baseline', 'higher', 'verdict'),
  [
    ([0.9, 0.91, 0.92], [0.8, 0.82, 0.81], True, 'better'),
    ([0.9, 0.91, 0.92], [0.8, 0.82, 0.81], False, 'worse'),
    ([0.9, 0.91, 0.92], [0.91, 0.9, 0.92], True, 'inconclusive'),
    ([0.9], [0.1], True, 'inconclusive'),
    ([0.9, 0.9], [0.9, 0.9], True, 'inconclusive'),
    ([0.9, 0.9, 0.9], [0.8, 0.8, 0.8], True, 'better'),
    ([0.9, 0.9, 0.9], [0.8, 0.8, 0.8], False, 'worse'),
    ([0.9, NAN, 0.9], [0.8, 0.8, 0.8], True, 'inconclusive'),
    ([0.1, 0.2, 0.15], [0.8, NAN, 0.8], True, 'inconclusive'),
    ([0.9, math.inf, 0.9], [0.8, 0.8, 0.8], False, 'inconclusive'),
    ([NAN], [0.1], True, 'inconclusive'),
  ],
)
def test_the_verdict_is_a_paired_test(student, baseline, higher, verdict):
  test = paired(student, baseline, higher)
  assert test.verdict == verdict
  finite = np.isfinite([student, baseline]).all()
  assert (test.p is None) == (len(student) < 2 or not finite) == (test.interval is None)
  assert bool(test.note) == (not finite or len(student) > 1 and np.ptp(np.subtract(student, baseline)) < 1e-9)


def test_test_interval_and_effect_are_those_of_the_textbook():
  rng = np.random.default_rng(0)
  student, baseline = rng.normal(0.83, 0.02, 5), rng.normal(0.8, 0.02, 5)
  test, wanted = paired(student, baseline, True), stats.ttest_rel(student, baseline)
  assert test.p == pytest.approx(wanted.pvalue)
  assert test.interval == pytest.approx(tuple(wanted.confidence_interval(0.95)))
  assert test.effect == pytest.approx(wanted.statistic / math.sqrt(5))
  assert test.difference == pytest.approx(np.mean(student - baseline))


def test_differences_all_alike_have_the_spread_of_rounding():
  """Of 48 examples one more in every seed is no proof; ten more are."""
  few, many = ([(24 + n) / 48, (25 + n) / 48, (26 + n) / 48] for n in (1, 10))
  base = [24 / 48, 25 / 48, 26 / 48]
  small, large = paired(few, base, True, 1 / 48), paired(many, base, True, 1 / 48)
  assert small.verdict == 'inconclusive' and small.p > 0.05 and small.interval[0] < 0
  assert large.verdict == 'better' and large.p < 0.01 and large.effect is None
  assert 'the same in every seed' in small.note and paired(base, base, True, 1 / 48).p == 1


def result(values, name='a', **config):
  student = ONE | {'values': list(values), 'mean': float(np.mean(values)), 'training': name, 'update_s': 1.0}
  test = paired(values, ONE['values'], True)
  output = dict.fromkeys(('dataset', 'metric', 'split', 'selection'), 'top1')
  output |= {
    'n_examples': 48,
    'hardware': '',
    'versions': {},
    'config': {'name': 'w/a', 'methods': {}},
    'gap_recovered': 0.1,
  }
  output |= {k: getattr(test, k) for k in ('difference', 'interval', 'effect', 'verdict', 'note')}
  output |= {'name': name, 'seeds': [0, 1, 2], 'n_train': {'student': 3}, 'stages': {'student': student}}
  output['stages'] |= {'baseline': ONE}
  return output | {'p_value': test.p, 'higher_is_better': True}


def test_a_member_of_a_cohort_says_what_the_ranking_says(tmp_path):
  """Alone it would be better; of twenty such tests it is not."""
  single = result([0.83, 0.87, 0.86])
  assert single['verdict'] == 'better' and 0.01 < single['p_value'] < 0.05
  others = {f'm{i}': result([0.80 + i / 1000, 0.83, 0.80]) for i in range(19)}
  results = ranking.corrected({'a': single} | others)
  ranked = ranking.rank(results, {}, tuple(results))
  for row in ranked['rows']:
    for key in ('verdict', 'p_adjusted', 'p_value', 'difference', 'interval', 'effect'):
      assert results[row['name']][key] == row[key]
  mine = results['a']
  assert mine['verdict'] == 'inconclusive' and mine['p_adjusted'] > 0.05 and mine['tests'] == 20
  assert 'corrected p = ' in words.verdict(mine) and 'of 20 tests' in words.verdict(mine)
  report.write(mine, {}, (), tmp_path)
  for page in ('report.md', 'report.html'):
    assert 'No clear difference' in (tmp_path / page).read_text()
  report.write_ranking(ranked, tmp_path)
  assert '95 % interval' in (tmp_path / 'ranking.md').read_text()
  assert json.loads((tmp_path / 'ranking.json').read_text())['rows'][0]['interval']


def test_a_score_that_is_not_finite_is_last_and_never_worse():
  results = ranking.corrected({'lost': result([NAN, 0.2, 0.3]), 'a': result([0.85, 0.87, 0.86])})
  rows = ranking.rank(results, {}, ())['rows']
  assert [r['name'] for r in rows] == ['a', 'lost'] and rows[1]['verdict'] == 'inconclusive'
  assert significance.verdict(0.001, NAN, True) == 'inconclusive'


def test_the_lowest_is_first_where_low_is_good():
  results = {'high': result([3.1, 3.2, 3.0]), 'low': result([2.1, 2.2, 2.0])}
  low = {name: r | {'higher_is_better': False} for name, r in results.items()}
  for each, first in ((results, 'high'), (low, 'low')):
    assert ranking.rank(ranking.corrected(each), {}, ())['rows'][0]['name'] == first
