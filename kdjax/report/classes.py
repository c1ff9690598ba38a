"""The section of a report on the classes: a table of each, the student's confusions, and calibration."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from kdjax.report import plots, words
from kdjax.runtime.progress import counted

SHOWN = 20  # rows of a table that are not folded
LEAST = 0.01  # share of the examples below which a bin is not drawn


def rows(results: Mapping) -> list[dict[str, str]]:
  """A row for each class with recall and precision of every stage, the student's lowest F1 first."""
  per_class = results.get('per_class')
  if not per_class:
    return []
  stages = [s for s in words.STAGES if s in per_class['stages']]
  count, of_stage = np.array(per_class['count']), {}
  for stage in stages:
    right, predicted = (np.array(per_class['stages'][stage][k]) for k in ('right', 'predicted'))
    of_stage[stage] = right, predicted
  right, predicted = of_stage[stages[-1]]
  f1 = np.sum(2 * right, 0) / np.maximum(np.sum(count + predicted, 0), 1)
  names = _distinct(per_class['names'])
  out = []
  for i in sorted(np.flatnonzero(count + np.sum(predicted, 0)), key=lambda i: (count[i] == 0, f1[i])):
    row = {'class': names[i], 'examples': f'{count[i]:,}'}
    for stage in stages:
      row[f'recall, {stage}'] = _share(of_stage[stage][0][:, i], count[i])
    for stage in stages:
      right, predicted = (x[:, i] for x in of_stage[stage])
      row[f'precision, {stage}'] = f'{_share(right, predicted)} (predicted {predicted.mean():,.0f}×)'
    out.append(row)
  return out


def _share(right, total):
  """A mean over those of the seeds that have any, in percent."""
  total = np.broadcast_to(total, right.shape)
  shares = (right[total > 0] / total[total > 0]).tolist()
  return words.measured(shares, 'recall', 1) if shares else words.DASH


def _distinct(names):
  """The names of the classes, numbered where several are the same."""
  return (
    [f'{n} [{i}]' if names.count(n) > 1 else n for i, n in enumerate(names)]
    if len(set(names)) < len(names)
    else list(names)
  )


def confused(results: Mapping) -> list[dict[str, str]]:
  """A row for each of the most confused pairs of classes, where there are too many for a matrix."""
  confusion = results.get('confusion')
  if not confusion or confusion['matrix']:
    return []
  names, count = _distinct(results['per_class']['names']), results['per_class']['count']
  return [
    {
      'true class': names[true],
      'predicted': names[predicted],
      'examples': f'{n:,}',
      'share of the class': words.score(n / (count[true] * confusion['seeds']), 'recall', 1),
    }
    for true, predicted, n in confusion['pairs'][:SHOWN]
  ]


def matrix(results: Mapping) -> dict | None:
  """The student's confusion matrix as a figure of the page; None without one."""
  confusion = results.get('confusion') or {}
  if not confusion.get('matrix'):
    return None
  names, counts = _distinct(results['per_class']['names']), np.array(confusion['matrix'])
  percent = np.round(100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)).astype(int)
  over = f', summed over {counted(confusion["seeds"], "seed")}' if confusion['seeds'] > 1 else ''
  lines = [
    {
      'name': name,
      'cells': [{'count': f'{n:,}', 'percent': int(p)} for n, p in zip(*row, strict=True)],
    }
    for name, *row in zip(names, counts, percent, strict=True)
  ]
  return {
    'title': f"The student's confusions on {results.get('split')}",
    'caption': f'Examples{over}; a row is a true class, a column what was predicted. '
    'The shade is the share of the row.',
    'matrix': {'names': names, 'rows': lines},
  }


def calibration(results: Mapping) -> Figure | None:
  """How often each stage is right, against its confidence."""
  stages = {s: results['calibration'][s] for s in words.STAGES if s in (results.get('calibration') or {})}
  if not any(np.sum(seed['count']) for seeds in stages.values() for seed in seeds):
    return None
  figure, axes = plots.blank('confidence (%)', 'right (%)', (4.6, 3.8))
  axes.plot([0, 100], [0, 100], color=plots.INK, linestyle=':', linewidth=1.2)
  errors = words.column([float(np.mean([_error(seed) for seed in seeds])) for seeds in stages.values()])
  for (stage, seeds), error in zip(stages.items(), errors, strict=True):
    count, right, confidence = (
      np.array([s[k] for s in seeds], float) for k in ('count', 'right', 'confidence')
    )
    total = np.maximum(count.sum(0), 1)
    drawn = count.sum(0) > LEAST * count.sum()
    x, y = (100 * (part.sum(0) / total)[drawn] for part in (confidence, right))
    each = np.where(count > 0, 100 * right / np.maximum(count, 1), np.nan)[:, drawn]
    colour = plots.COLOURS[stage]
    axes.fill_between(x, np.nanmin(each, 0), np.nanmax(each, 0), color=colour, alpha=0.18, linewidth=0)
    style = {'color': colour, 'linestyle': plots.LINES[stage], 'marker': plots.MARKERS[stage]}
    axes.plot(x, y, linewidth=1.6, markersize=5, label=f'{stage}, ECE {error}', **style)
  axes.set_xlim(0, 103)
  axes.set_ylim(0, 103)
  plots.legend_below(figure)
  return figure


def _error(bins):
  """The expected calibration error of one seed's bins."""
  gaps = np.abs(np.array(bins['right']) - np.array(bins['confidence']))
  return float(gaps.sum() / max(np.sum(bins['count']), 1))
