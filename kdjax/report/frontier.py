"""The page of `ship`: every form of a student, its score against its size and its latency."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich import box
from rich.table import Table
from rich.text import Text

from kdjax.report import plots, words
from kdjax.report.exports import BYTES

HOW = {
  'none': 'as it was trained',
  'labels': 'trained on with labels',
  'distilled': 'trained on with the teacher',
}
LOOKS = {
  'none': ('#0072b2', 's', 'as trained'),
  'labels': ('#d55e00', '^', 'more steps on the labels'),
  'distilled': ('#009e73', 'o', 'more steps with the teacher'),
}


def rows(shipped: Mapping[str, Any]) -> list[dict[str, str]]:
  """A row a form, each {column: cell}."""
  metric, each = shipped['metric'], shipped['rows']
  digits = words.common_digits(metric, [r['mean'] for r in each], [r['std'] for r in each])
  digits += words.is_share(metric)
  times = {k: words.column([r[k] for r in each]) for k in ('latency_ms_one_thread', 'latency_ms')}
  return [
    {
      'form': row['name'],
      'how': HOW[row['training']],
      metric: words.measured(row['values'], metric, digits),
      'less float': words.signed(row['difference'], metric, digits) if i else '',
      'p': words.p_cell(row['p']) if i else '',
      'size': words.scaled(row['bytes'], BYTES),
      'smaller': f'{each[0]["bytes"] / row["bytes"]:.1f}x',
      'ms, one thread': times['latency_ms_one_thread'][i],
      'ms': times['latency_ms'][i],
      'front': ', '.join(
        what for what, on in (('size', row['on_size_front']), ('latency', row['on_latency_front'])) if on
      ),
      'chosen': 'yes' if row['name'] == shipped['chosen'] else '',
    }
    for i, row in enumerate(each)
  ]


def verdict(shipped: Mapping[str, Any]) -> str:
  """What was chosen, and why, in a sentence."""
  if not shipped['chosen']:
    limits = {'max_bytes': 'bytes', 'max_ms': 'ms on one thread'}
    asked = ' and '.join(f'{shipped[k]:g} {unit}' for k, unit in limits.items() if shipped[k])
    within = f'within {asked} ' if asked else ''
    return f'No form {within}keeps the score of the float student; the smallest that does is not among these.'
  row = next(r for r in shipped['rows'] if r['name'] == shipped['chosen'])
  first, metric = shipped['rows'][0], shipped['metric']
  return (
    f'{row["name"]}: {words.measured(row["values"], metric)} against '
    f'{words.measured(first["values"], metric)} of the float student, in '
    f'{words.scaled(row["bytes"], BYTES)} for {words.scaled(first["bytes"], BYTES)} '
    f'({first["bytes"] / row["bytes"]:.1f} times smaller).'
  )


def figures(shipped: Mapping[str, Any]) -> list[tuple[Figure, str, str]]:
  """(figure, title, caption) of the score against bytes and against latency."""
  metric = shipped['metric']
  caption = 'Bars: one standard deviation over seeds. The line joins the forms that no other beats in both.'
  return [
    (_front(shipped, 'bytes', 'size (KB)', 1e-3, 'on_size_front'), f'{metric} against size', caption),
    (
      _front(shipped, 'latency_ms_one_thread', 'latency, batch 1, one thread (ms)', 1, 'on_latency_front'),
      f'{metric} against latency',
      caption,
    ),
  ]


def _front(shipped, key, label, unit, on_front):
  metric = shipped['metric']
  scale, metric_label = plots.scale_of(metric)
  figure, axes = plots.blank(label, metric_label, (6.2, 3.8))
  axes.set_xscale('log')
  for training, (colour, marker, words_of_it) in LOOKS.items():
    chosen = [r for r in shipped['rows'] if r['training'] == training]
    if chosen:
      axes.errorbar(
        [unit * r[key] for r in chosen],
        [scale * r['mean'] for r in chosen],
        yerr=[scale * r['std'] for r in chosen],
        fmt=marker,
        color=colour,
        capsize=3,
        markersize=6,
        linestyle='none',
        label=words_of_it,
      )
  front = sorted((r for r in shipped['rows'] if r[on_front]), key=lambda r: r[key])
  axes.plot([unit * r[key] for r in front], [scale * r['mean'] for r in front], color=plots.INK, linewidth=1)
  for r in front:
    at = unit * r[key], scale * r['mean']
    axes.annotate(r['name'], at, (4, 6), textcoords='offset points', fontsize=8, color=plots.INK)
  axes.margins(x=0.15, y=0.2)
  limits = axes.get_ylim()
  for name in ('teacher', 'baseline'):
    value = scale * shipped['stages'].get(name, {}).get('mean', float('nan'))
    if (
      limits[0] < value < limits[1] + 0.5 * (limits[1] - limits[0])
    ):  # one far away would hide the differences
      axes.axhline(value, color=plots.COLOURS[name], linestyle=plots.LINES[name], label=name)
  axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
  axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:g}'))
  axes.xaxis.set_minor_locator(NullLocator())
  plots.legend_below(figure)
  return figure


def table(shipped: Mapping[str, Any]) -> Table:
  """The forms, for `rich.print`."""
  body = rows(shipped)
  shown = Table(box=box.SIMPLE_HEAD)
  columns = [c for c in body[0] if c not in ('how', 'front', 'ms')]
  for i, column in enumerate(columns):
    shown.add_column(Text(column), justify='right' if i > 1 else 'left', overflow='fold')
  for row in body:
    shown.add_row(*(Text(row[c]) for c in columns), style='bold' if row['chosen'] else '')
  return shown
