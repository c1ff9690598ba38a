"""The report's plots, and how a figure becomes part of a page."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdjax.report import words

# Blue, vermilion and green of Okabe and Ito, which most colour-blind readers can tell apart.
COLOURS = {'teacher': '#0072b2', 'baseline': '#d55e00', 'student': '#009e73', 'ceiling': '#cc79a7'}
MARKERS = {'teacher': 's', 'baseline': '^', 'student': 'o', 'ceiling': 'D'}
LINES = {'teacher': '-.', 'baseline': '--', 'student': '-', 'ceiling': ':'}
# Placeholders that `svg` swaps for the page's own colours, so that dark mode reaches the plots.
INK, _RULE = '#010203', '#040506'
# For more lines than stages: purple, orange and sky blue of Okabe and Ito, and again with other dashes.
_MORE = ('#cc79a7', '#e69f00', '#56b4e9', '#009e73', '#d55e00')
_DASHES = ('-', '--', '-.', ':')


def learning_curve(results: Mapping, curves: Mapping[str, Sequence[Mapping]]) -> Figure | None:
  """The evaluation metric against the step; the shade runs from min to max over seeds."""
  metric = results['metric']
  scale, label = scale_of(metric)
  return _lines(curves, f'eval/{metric}', label, scale)


def training_loss(curves: Mapping[str, Sequence[Mapping]]) -> Figure | None:
  """The training loss against the step.

  The task's own term where every stage logged it: totals with and without a distillation
  term do not compare.
  """
  logged = [records for records in curves.values() if records]
  comparable = all(any('loss/task' in r for r in records) for records in logged)
  key = 'loss/task' if logged and comparable else 'loss/total'
  return _lines(curves, key, f'loss: {"labels" if key == "loss/task" else "total"}', 1, may_log=True)


def losses(records: Sequence[Mapping], names: Mapping[str, str]) -> Figure | None:
  """Each term of the student's loss, with its weight, against the step; None where there is only one.

  Args:
    records: the student's log.
    names: name of a term -> what it is.
  """
  terms = dict.fromkeys(k.removeprefix('loss/') for r in records for k in r if k.startswith('loss/'))
  terms.pop('total', None)
  if len(terms) < 2:
    return None
  series = {}
  for name in terms:
    words_of_it = names.get(name, '').partition(': ')[0]
    series[f'{name}: {words_of_it}' if words_of_it else name] = _series(records, f'loss/{name}')
  return _line_plot(series, 'step', 'loss, weighted', 1, may_log=True)


def metric_against_size(results: Mapping) -> Figure | None:
  """The metric of each stage against its parameters, with the references as lines."""
  metric, decimals = results['metric'], words.digits(results)
  scale, label = scale_of(metric)
  points = {
    n: (s['params'], s['mean'], s.get('std'))
    for n, s in results['stages'].items()
    if s.get('params') and words.is_number(s.get('mean'))
  }
  if not points:
    return None
  figure, axes = blank('parameters', label)
  axes.set_xscale('log')
  counts = sorted({count for count, _, _ in points.values()})
  axes.set_xticks(counts, [words.scaled(c, ('', 'k', 'M', 'B', 'T')) for c in counts])
  axes.set_xticks([], minor=True)  # on less than a decade their labels run into each other
  for name, (count, mean, std) in points.items():
    axes.errorbar(
      count,
      scale * mean,
      yerr=scale * (std if words.is_number(std) else 0.0),
      capsize=4,
      color=COLOURS[name],
      marker=MARKERS[name],
      markersize=8,
      linewidth=1.8,
      linestyle='none',
      label=f'{name} {words.stage_score(results, name)}',
    )
  references = {k: v for k, v in (results.get('references') or {}).items() if words.is_number(v)}
  for i, (name, value) in enumerate(references.items()):
    text = f'{name} {words.score(value, metric, decimals)}'.replace('$', r'\$')
    style = (0, (6, 2)), (0, (1, 2)), (0, (6, 2, 1, 2))
    axes.axhline(
      scale * value, color=INK, linestyle=style[i % len(style)], linewidth=1.2, alpha=0.7, label=text
    )
  axes.margins(x=0.2, y=0.15)  # no label of a tick runs into the next
  legend_below(figure)
  return figure


def latency(results: Mapping) -> Figure | None:
  """Milliseconds for one example, as bars."""
  times = {
    n: results['stages'][n]['latency_ms']
    for n in reversed(words.STAGES)
    if words.is_number(results['stages'].get(n, {}).get('latency_ms'))
  }
  if not times:
    return None
  figure, axes = blank('latency, batch 1 (ms)', '')
  bars = axes.barh(list(times), list(times.values()), color=[COLOURS[n] for n in times])
  axes.bar_label(bars, words.column(list(times.values())), padding=4, color=INK, fontsize=10)
  axes.margins(x=0.2)
  axes.grid(visible=False, axis='y')
  return figure


def ranking(ranked: Mapping) -> Figure | None:
  """Every member's mean and deviation, with lines at the baseline and the teacher."""
  rows = [r for r in ranked['rows'] if 'failed_at' not in r][::-1]
  if not rows:
    return None
  scale, label = (
    (100, f'{ranked["metric"]} (%)') if words.is_share(ranked['metric']) else (1, ranked['metric'])
  )
  figure, axes = blank(label, '', (5.6, 1.2 + 0.24 * len(rows)))
  means, stds = ([scale * r[k] for r in rows] for k in ('mean', 'std'))
  positions = range(len(rows))
  axes.errorbar(means, positions, xerr=stds, fmt='o', color=COLOURS['student'], capsize=3, markersize=5)
  axes.set_yticks(positions, [r['name'] for r in rows], parse_math=False)
  axes.set_ylim(-0.7, len(rows) - 0.3)
  for name, stage in ranked['stages'].items():
    axes.axvline(scale * stage['mean'], color=COLOURS[name], linestyle=LINES[name], label=name)
  axes.legend(loc='lower center', bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, labelcolor=INK)
  return figure


def spectrogram(sound: np.ndarray, bands: int = 48) -> np.ndarray:
  """A picture u8 [bands, T, 3] of a sound [N]: log power, low frequencies below."""
  from scipy import signal  # takes half a second to import

  size = min(2 * bands, len(sound))
  _, _, power = signal.spectrogram(
    np.asarray(sound, np.float64), window='hann', nperseg=size, noverlap=size * 3 // 4
  )
  level = 10 * np.log10(power[:bands][::-1] + 1e-10)
  level = np.clip((level - level.max() + 60) / 60, 0, 1)  # the loudest 60 dB
  return (255 * matplotlib.colormaps['magma'](level)[..., :3]).astype(np.uint8)


def svg(figure: Figure, label: str) -> str:
  """The figure as an inline SVG element, deterministic.

  Args:
    figure: what to draw.
    label: the alternative text for screen readers.
  """
  buffer = io.StringIO()
  metadata = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
  with matplotlib.rc_context({'svg.hashsalt': label, 'svg.fonttype': 'none'}):
    figure.savefig(buffer, format='svg', transparent=True, metadata=metadata)
  text = buffer.getvalue()
  text = text[text.index('<svg') :].strip()
  colours = {hex_: f'var(--{name}, {hex_})' for name, hex_ in COLOURS.items()}
  colours |= {INK: 'currentColor', _RULE: 'var(--rule, #ccc)'}
  for hex_, css in colours.items():
    text = text.replace(hex_, css)
  # Several figures share a page: keep only the ids that are referenced.
  referenced = set(re.findall(r'#([\w-]+)', text))
  text = re.sub(r' id="([\w.-]+)"', lambda m: m[0] if m[1] in referenced else '', text)
  safe = re.sub(r'[<>&"]', ' ', label)
  widest = f'max-width: {figure.get_size_inches()[0] * 6.5:.1f}rem'  # larger text than the page's looks odd
  return text.replace('<svg', f'<svg role="img" aria-label="{safe}" style="{widest}"', 1)


def scale_of(metric):
  """What a value is multiplied with, and the label of its axis."""
  return (100, f'{metric} (%)') if words.is_share(metric) else (1, metric)


def blank(x: str, y: str, size: tuple[float, float] = (4.6, 3.1)) -> tuple[Figure, Any]:
  """An empty figure in the page's own colours, with the labels of its axes."""
  figure = Figure(figsize=size, layout='constrained')
  axes = figure.add_subplot()
  axes.set_xlabel(x, color=INK, parse_math=False)
  axes.set_ylabel(y, color=INK, parse_math=False)
  axes.tick_params(which='both', colors=INK)
  axes.grid(color=_RULE, linewidth=0.8)
  axes.set_axisbelow(True)
  for side, spine in axes.spines.items():
    spine.set_visible(side in ('left', 'bottom'))
    spine.set_color(INK)
  return figure, axes


def legend_below(figure: Figure) -> None:
  """The legend of a figure under its axes, where it covers nothing; the figure grows by its lines."""
  handles, texts = figure.axes[0].get_legend_handles_labels()
  columns = max(1, min(len(texts), int(52 // (max(map(len, texts)) + 6))))
  lines = -(-len(texts) // columns)
  width, height = figure.get_size_inches()
  figure.set_size_inches(width, height + 0.22 * lines)
  points_first = sorted(zip(handles, texts, strict=True), key=lambda e: isinstance(e[0], Line2D))
  figure.legend(
    *zip(*points_first, strict=True),
    loc='outside lower center',
    ncols=columns,
    frameon=False,
    labelcolor=INK,
    fontsize=9.5,
    columnspacing=1.5,
  )


def against(stages: Mapping[str, Sequence[tuple]], x: str, metric: str) -> Figure | None:
  """The metric of each stage, [(x, one value per seed), ...], against `x`."""
  scale, label = scale_of(metric)
  return _line_plot({name: zip(*points, strict=True) for name, points in stages.items()}, x, label, scale)


def _lines(curves, key, label, scale, may_log=False):
  series = {name: _series(curves.get(name) or (), key) for name in words.STAGES}
  return _line_plot({name: pair for name, pair in series.items() if pair[0]}, 'step', label, scale, may_log)


def _line_plot(series, x, label, scale, may_log=False):
  figure, axes = blank(x, label)
  lowest, highest = np.inf, -np.inf
  for i, (name, (steps, seeds)) in enumerate(series.items()):
    colour = COLOURS.get(name, _MORE[i % len(_MORE)])
    low, high = (scale * np.array([f(v) for v in seeds]) for f in (np.min, np.max))
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
      steps,
      [scale * np.mean(v) for v in seeds],
      color=colour,
      label=name.replace('$', r'\$'),
      linestyle=LINES.get(name, _DASHES[i % len(_DASHES)]),
      linewidth=1.8,
      marker=MARKERS.get(name, 'o'),
      markersize=5,
      markevery=-(-len(steps) // 10),
    )
    lowest, highest = min(lowest, low.min()), max(highest, high.max())
  if not axes.lines:
    return None
  if may_log and 0 < lowest < highest / 30:
    axes.set_yscale('log')
  legend_below(figure)
  return figure


def _series(records, key):
  steps, seeds = [], []
  for record in records:
    values = np.atleast_1d(np.asarray(record.get(key, ()), dtype=float))
    values = values[np.isfinite(values)]
    if values.size:
      steps.append(record['step'])
      seeds.append(values)
  return steps, seeds
