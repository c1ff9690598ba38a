"""The numbers and sentences of a report, the same in every format."""

import math
import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TypeGuard

from kdjax.runtime.progress import counted

DASH = '–'
STAGES = ('teacher', 'ceiling', 'baseline', 'student')  # as columns stand
_SHARE = re.compile(
  r'(^|[_/ -])(top-?\d+|acc|accuracy|exact_match|em|f1|precision|recall|auc|map|'
  r'mean_recall|rouge_l|bleu_4|(r|recall|p|precision|hit|map)@\d+|agreement)$',
  re.IGNORECASE,
)


def is_number(value: float | None) -> TypeGuard[float]:
  """Whether there is a number to show: no None, NaN or infinity."""
  return value is not None and math.isfinite(value)


def is_share(metric: str) -> bool:
  """Whether `metric` lies in 0..1 and reads best as a percentage."""
  return bool(_SHARE.search(metric))


def score(value: float | None, metric: str, digits: int | None = None, std: float | None = None) -> str:
  """A value of `metric`, with `± std` where there is one; shares as percentages.

  Args:
    value: in the metric's own unit.
    metric: its name.
    digits: decimals; None for one of a percentage, and of others as many as four digits have.
    std: of the value.
  """
  if not is_number(value):
    return DASH
  if is_share(metric):
    digits = 1 if digits is None else digits
    text, format_std = f'{100 * value:.{digits}f} %', lambda s: f'{100 * s:.{digits}f}'
  elif digits is None:
    text, format_std = f'{value:.4g}', lambda s: f'{s:.2g}'
  else:
    text, format_std = f'{value:,.{digits}f}', lambda s: f'{s:,.{digits}f}'
  return f'{text} ± {format_std(std)}' if is_number(std) else text


def decimals(values: Sequence[float | None]) -> int:
  """Decimals that give three digits to the largest of `values`, and two to the smallest; 6 at most."""
  sizes = [abs(v) for v in values if is_number(v) and v]
  if not sizes:
    return 0
  largest, smallest = (math.floor(math.log10(f(sizes))) for f in (max, min))
  return min(max(2 - largest, 1 - smallest, 0), 6)


def column(values: Sequence[float | None]) -> list[str]:
  """The cells of a column of numbers, all with the same decimals."""
  digits = decimals(values)
  return [f'{v:,.{digits}f}' if is_number(v) else DASH for v in values]


def common_digits(metric: str, means: Sequence[float | None], stds: Sequence[float | None] = ()) -> int:
  """Decimals of the scores of a column, as `score` takes them: enough to see the largest deviation."""
  known = [s for s in stds if is_number(s) and s > 0]
  if is_share(metric):
    return 2 if any(s < 0.0005 for s in known) else 1
  return max(decimals(means), decimals([max(known)]) - 1 if known else 0)


def measured(values: Sequence[float], metric: str, digits: int | None = None) -> str:
  """The mean over seeds, with the deviation where there are several."""
  std = stdev(values) if len(values) > 1 else None
  return score(fmean(values), metric, digits, std)


def stage_score(results: Mapping, name: str) -> str:
  """The mean of one stage, with the deviation over seeds where there are several."""
  stage = results['stages'][name]
  several = len(stage.get('values') or ()) > 1
  std = stage.get('std') if several else None
  return score(stage.get('mean'), results['metric'], digits(results), std)


def digits(results: Mapping) -> int:
  """Decimals of the scores: of a percentage two where one would hide a difference."""
  stages, metric = results['stages'], results['metric']
  means = [stages[n].get('mean') for n in ('baseline', 'student') if n in stages]
  both = len(means) == 2 and all(map(is_number, means))
  if is_share(metric) and both and abs(means[0] - means[1]) < 0.005:
    return 2
  scores = [s.get('mean') for s in stages.values()]
  common = common_digits(metric, scores, [s.get('std') for s in stages.values()])
  apart = abs(means[0] - means[1]) if both and not is_share(metric) else 0.0
  return max(common, decimals([apart]) - 1)


def plain(value: float | None) -> str:
  """Three significant digits, and no exponent for large numbers."""
  if not is_number(value):
    return DASH
  return f'{value:,.0f}' if abs(value) >= 999.5 else f'{value:.3g}'


def scaled(value: float | None, units: tuple[str, ...]) -> str:
  """`value` in the largest fitting of `units`, each 1,000 times the one before."""
  if not is_number(value):
    return DASH
  for unit in units:
    if abs(value) < 999.5 or unit == units[-1]:
      break
    value /= 1000
  return f'{value:,.{1 if unit != units[0] else 0}f} {unit}'.strip()


def times_smaller(results: Mapping, name: str) -> str | None:
  """How many times fewer parameters a stage has than the teacher, if it has fewer."""
  count, teacher = (results['stages'].get(n, {}).get('params') for n in (name, 'teacher'))
  if not is_number(count) or not is_number(teacher) or not count or teacher / count < 1.05:
    return None
  ratio = teacher / count
  return f'{ratio:.1f}' if ratio < 9.95 else f'{ratio:,.0f}'


def verdict(results: Mapping) -> str:
  """The sentence that answers the question: did distillation help?"""
  stages = results['stages']
  if any(not is_number(stages.get(n, {}).get('mean')) for n in ('baseline', 'student')):
    return 'No comparison: it takes a measured student and the same student trained alone.'
  distilled, alone = (stage_score(results, n) for n in ('student', 'baseline'))
  test = _test(results)
  if results.get('verdict') == 'better':
    return (
      f'The distilled student is better than the same student trained alone: '
      f'{distilled} against {alone} ({test}){_gain(results)}.'
    )
  if results.get('verdict') == 'worse':
    return (
      f'The distilled student is worse than the same student trained alone: '
      f'{distilled} against {alone} ({test}). Distillation did not help here.'
    )
  return (
    f'No clear difference: the distilled student scores {distilled} against {alone} for the '
    f'same student trained alone ({test}). This run does not show that distillation helps.'
  )


def unbroken(text: str) -> str:
  """`text` with no line break inside a number and its unit or deviation."""
  return re.sub(r' (?=[%±])|(?<=±) |(?<=p) (?=[=<])|(?<=[=<]) ', '\N{NO-BREAK SPACE}', text)


def notes(results: Mapping) -> list[str]:
  """What a reader should know before trusting the verdict."""
  metric, stages = results['metric'], results['stages']
  means = {n: s.get('mean') for n, s in stages.items() if is_number(s.get('mean'))}
  higher = results.get('higher_is_better', True)
  sign = 1 if higher else -1
  sentences = [effect(results)] if is_number(results.get('difference')) else []
  sentences += [results['note']] if results.get('note') else []
  sentences += [] if higher else [f'Lower {metric} is better.']
  if {'teacher', 'baseline'} <= means.keys() and sign * means['teacher'] <= sign * means['baseline']:
    sentences.append('The teacher is no better than the student trained alone, so there is no gap to close.')
  sentences += _of_ceiling(results, means, sign)
  for name, value in (results.get('references') or {}).items():
    if 'student' in means and is_number(value) and sign * value >= sign * means['student']:
      sentences.append(
        f'The distilled student does not beat the reference “{name}” '
        f'({score(value, metric, digits(results))}).'
      )
  return sentences


def _of_ceiling(results, means, sign) -> list[str]:
  """What the student with all labels, trained alone, says about how much there was to gain."""
  if not {'ceiling', 'baseline'} <= means.keys():
    return []
  gap, std = sign * (means['ceiling'] - means['baseline']), results['stages']['baseline'].get('std') or 0.0
  text = f'The same student with all labels, trained alone, scores {stage_score(results, "ceiling")}'
  if gap <= max(std, 0.01 if is_share(results['metric']) else 0.0):
    added = sign * (means.get('student', means['ceiling']) - means['ceiling']) <= std
    also = ', and so can a teacher' * added
    return [f'{text}: more labels would add little at this size and these steps{also}.']
  return [f'{text}.']


def effect(results: Mapping) -> str:
  """The difference of student and baseline, with its interval and its size in standard deviations."""
  text = f'Student less baseline: {signed(results["difference"], results["metric"])}'
  if results.get('interval'):
    text += f', 95 % interval {interval(results["interval"], results["metric"])}'
  text += ' points' if is_share(results['metric']) else ''
  d = results.get('effect')
  return f'{text}; effect size d_z {plain(d)}.' if is_number(d) else f'{text}.'


def interval(ends: Sequence[float] | None, metric: str, digits: int | None = None) -> str:
  """The interval of a difference of `metric`, each end as `signed` writes it."""
  return ' to '.join(signed(x, metric, digits) for x in ends) if ends else DASH


def signed(value: float | None, metric: str, digits: int | None = None) -> str:
  """A difference of `metric`; of shares in points, to two decimals, else to `digits` of them."""
  if not is_number(value):
    return DASH
  if is_share(metric):
    return f'{100 * value:+.2f}'
  return f'{value:+.3g}' if digits is None else f'{value:+,.{digits}f}'


def p_value(p: float | None, name: str = '') -> str:
  """p to two digits, as an equation where it has a name."""
  if not is_number(p):
    return DASH
  low, sign = p < 0.001, f'{name} = ' if name else ''
  return f'{name} < 0.001'.strip() if low else f'{sign}{p:.2g}'


def p_cell(p: float | None) -> str:
  """p to three decimals, for a column."""
  if not is_number(p):
    return DASH
  return '< 0.001' if p < 0.001 else f'{p:.3f}'


def _test(results):
  count, p = len(results['stages']['student'].get('values') or ()), results.get('p_value')
  seeds = 'one seed' if count == 1 else counted(count, 'seed')
  if not is_number(p):
    return f'{seeds}, so no significance test' if count == 1 else f'{seeds}, no significance test'
  corrected = results.get('p_adjusted') if results.get('tests', 1) > 1 else None
  correction = (
    f', {p_value(corrected, "corrected p")} of {counted(results["tests"], "test")}'
    if is_number(corrected)
    else ''
  )
  return f'paired t-test over {seeds}, {p_value(p, "p")}{correction}'


def _gain(results):
  gap, ratio = results.get('gap_recovered'), times_smaller(results, 'student')
  if not is_number(gap):
    return f'; it has {ratio} times fewer parameters than the teacher' if ratio else ''
  share = 'more than the whole' if gap > 1.005 else f'{100 * gap:.0f} % of the'
  return f'; it recovers {share} gap to the teacher' + (
    f' with {ratio} times fewer parameters' if ratio else ''
  )
