"""A panel of a paper's table as a plot: dots, measured and published, or a sweep as lines."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from kdjax.report import plots, words

PUBLISHED = 'Dots: mean and one standard deviation, measured here. Diamonds: published.'
SWEEP = 'Mean and one standard deviation.'
_LINES = tuple(plots.COLOURS.values())


def panel(cells: Mapping[str, Mapping[str, Mapping]], measures: Mapping) -> tuple[Figure | None, str]:
  """The figure of a panel and its caption; None where nothing was measured, or its units differ."""
  all_cells = [c for columns in cells.values() for c in columns.values()]
  done = [c for c in all_cells if c['status'] == 'done']
  units = {measures[c['measure']]['unit'] for c in all_cells}
  if not done or len(units) > 1:
    return None, ''
  if any(words.is_number(c['published']) for c in all_cells):
    return dots(cells, units.pop()), PUBLISHED
  if len({column for columns in cells.values() for column in columns}) == 1:  # rows are no axis
    return dots(cells, units.pop()), SWEEP
  return lines(cells, units.pop()), SWEEP


def dots(cells: Mapping[str, Mapping[str, Mapping]], unit: str) -> Figure:
  """One line per cell, the first at the top."""
  labelled = [
    (row if len(columns) == 1 else f'{row}, {column}', cell)
    for row, columns in cells.items()
    for column, cell in columns.items()
  ][::-1]
  figure, axes = plots.blank(unit, '', (7, 1.2 + 0.26 * len(labelled)))
  for position, (_, cell) in enumerate(labelled):
    if cell['status'] == 'done':
      colour = plots.COLOURS[cell['stage']]
      axes.errorbar(
        cell['mean'], position, xerr=cell.get('std') or 0.0, fmt='o', color=colour, capsize=3, markersize=5
      )
    if words.is_number(cell['published']):
      axes.plot(cell['published'], position, 'D', markerfacecolor='none', color=plots.INK, markersize=6)
  axes.set_yticks(range(len(labelled)), [name for name, _ in labelled], parse_math=False)
  axes.set_ylim(-0.7, len(labelled) - 0.3)
  return figure


def lines(cells: Mapping[str, Mapping[str, Mapping]], unit: str) -> Figure:
  """One line per row over the columns, or one per column over the rows where these are more."""
  columns = list(dict.fromkeys(c for row in cells.values() for c in row))
  if len(cells) > len(columns):
    transposed = {
      c: {row: row_cells[c] for row, row_cells in cells.items() if c in row_cells} for c in columns
    }
    columns, cells = list(cells), transposed
  figure, axes = plots.blank('', unit, (7, 3.4))
  for i, (row, row_cells) in enumerate(cells.items()):
    points = [
      (columns.index(c), x['mean'], x.get('std') or 0.0)
      for c, x in row_cells.items()
      if x['status'] == 'done'
    ]
    if points:
      x, y, std = zip(*points, strict=True)
      axes.errorbar(
        x, y, yerr=std, marker='o', capsize=3, color=_LINES[i % len(_LINES)], label=row.replace('$', r'\$')
      )
  axes.set_xticks(range(len(columns)), columns, parse_math=False)
  axes.legend(frameon=False, labelcolor=plots.INK)
  return figure
