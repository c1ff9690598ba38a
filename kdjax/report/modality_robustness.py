"""The section of a report on missing and noisy modalities."""

from collections.abc import Iterator, Mapping

import numpy as np
from matplotlib.figure import Figure

from kdjax.report import plots, words


def rows(results: Mapping) -> list[dict[str, str]]:
  """A row for each subset of the modalities: the score of every stage, the interval of student less
  baseline, and p of the two."""
  robustness, metric, digits = results['modality_robustness'], results['metric'], words.digits(results)
  stages = [s for s in words.STAGES if s in results['stages']]
  out = []
  for subset, scores in robustness['subsets'].items():
    cells = {s: words.measured(scores[s], metric, digits) if s in scores else '' for s in stages}
    p = robustness['p_adjusted'].get(subset)
    interval = words.interval(robustness.get('interval', {}).get(subset), metric)
    out.append({'modalities': subset, **cells, '95 % interval': interval, 'p, corrected': words.p_cell(p)})
  return out


def figures(results: Mapping) -> Iterator[tuple[Figure | None, str, str]]:
  """(figure, title, caption) of each plot; the figure is None where there is nothing to draw."""
  robustness, metric = results['modality_robustness'], results['metric']
  if len(robustness['subsets']) > 1:
    caption = (
      'Mean and one standard deviation over seeds; what is missing is absent from the inputs of every '
      'example. Empty: not an input.'
    )
    yield (
      _heat_map(robustness['subsets'], metric, words.digits(results)),
      f'{metric} with missing modalities',
      caption,
    )
  curves = {}
  for condition, scores in robustness['noise'].items():
    name, level = condition.rsplit(' ', 1)
    for stage, values in scores.items():
      curves.setdefault(name, {}).setdefault(stage, []).append((float(level), values))
  for name, stages in curves.items():
    caption = 'Share of the modality replaced by noise; the shade runs from the lowest to the highest seed.'
    yield plots.against(stages, 'noise', metric), f'{metric} with noise in {name}', caption


def _heat_map(subsets, metric, digits):
  stages = [s for s in words.STAGES if any(s in scores for scores in subsets.values())]
  each = [[scores.get(s, [np.nan]) for s in stages] for scores in subsets.values()]
  means = np.array([[np.mean(values) for values in row] for row in each])
  figure = Figure(figsize=(1.6 + 1.1 * len(stages), 0.9 + 0.5 * len(means)), layout='constrained')
  axes = figure.add_subplot()
  axes.imshow(means, cmap='cividis', aspect='auto')
  axes.set_xticks(range(len(stages)), stages, color=plots.INK)
  axes.set_yticks(range(len(means)), subsets, color=plots.INK, parse_math=False)
  axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
  axes.spines[:].set_visible(False)
  middle = (np.nanmin(means) + np.nanmax(means)) / 2
  for (y, x), mean in np.ndenumerate(means):
    if np.isfinite(mean):
      colour = '#ffffff' if mean < middle else '#000000'  # cividis is dark where it is low
      text = words.measured(each[y][x], metric, digits).replace(' ±', '\n±')
      axes.text(x, y, text, ha='center', va='center', color=colour, fontsize=10)
  return figure
