"""The paired t-test of two models over the same seeds, its interval and effect size."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

ALPHA = 0.05  # of every test
CONFIDENCE = 0.95  # of every interval


class Paired(NamedTuple):
  """Student against baseline, seed by seed.

  Attributes:
    difference: the mean of student - baseline; NaN where a score is not finite.
    interval: the confidence interval of that mean (Student's t), None with fewer than two seeds.
    effect: Cohen's d_z, the mean of the differences in their standard deviations; None where these are alike.
    p: of the two-sided paired t-test, None with fewer than two seeds or where a score is not finite.
    verdict: 'better', 'inconclusive' or 'worse'.
    note: a remark on the test for the report, or ''.
  """

  difference: float
  interval: tuple[float, float] | None
  effect: float | None
  p: float | None
  verdict: str
  note: str


def paired(
  student: Sequence[float], baseline: Sequence[float], higher_is_better: bool, resolution: float = 0.0
) -> Paired:
  """The two-sided paired t-test of the scores of each seed.

  Differences that are all alike have no spread to test against. Scores are rounded, to a step of `resolution`
  and to float32 at least, and so a spread is never taken to be less than the rounding of a difference,
  step / √6: alike and large differences are significant, those of a few steps are not, and none at all has
  p = 1.

  Args:
    student: a score a seed.
    baseline: of the same seeds, in the same order.
    higher_is_better: of the score.
    resolution: the smallest step of a score, such as 1 / examples of an accuracy.
  """
  values = np.asarray([student, baseline], np.float64)
  differences = values[0] - values[1]
  n, mean = len(differences), float(np.mean(differences)) if differences.size else math.nan
  if not np.isfinite(values).all():
    return Paired(math.nan, None, None, None, 'inconclusive', 'A score is not finite, so nothing is tested.')
  if n < 2:
    return Paired(mean, None, None, None, 'inconclusive', '')
  rounding = max(4 * float(np.finfo(np.float32).eps) * float(np.abs(values).max()), 1e-12)
  spread, alike = float(np.std(differences, ddof=1)), float(np.ptp(differences)) <= rounding
  least = max(resolution, rounding) / math.sqrt(6)
  error = max(spread, least) / math.sqrt(n)
  p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
  half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
  note = (
    'Student and baseline differ by the same in every seed: their spread is taken to be that of rounding.'
  )
  return Paired(
    mean,
    (mean - half, mean + half),
    None if alike else mean / spread,
    p,
    verdict(p, mean, higher_is_better),
    note if alike else '',
  )


def verdict(p: float | None, difference: float | None, higher_is_better: bool) -> str:
  """'better', 'worse', or 'inconclusive' where p, which may be a corrected one, is not below `ALPHA`."""
  if p is None or not difference or not math.isfinite(difference) or not p < ALPHA:
    return 'inconclusive'
  return 'better' if (difference > 0) == higher_is_better else 'worse'


def false_discovery(p: Sequence[float]) -> np.ndarray:
  """p of several tests, corrected together (Benjamini & Hochberg 1995)."""
  return stats.false_discovery_control(p) if len(p) else np.zeros(0)
