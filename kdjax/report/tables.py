"""A paper's table: measured beside published, in the terminal, Markdown, HTML and LaTeX."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kdjax.report import words
from kdjax.report.table import markdown_table
from kdjax.runtime.program import program
from kdjax.runtime.progress import duration

MAX_DIGITS = 12  # decimals


def grid(panel: Mapping[str, Mapping[str, Mapping]]) -> tuple[list[str], dict[str, list[Mapping | None]]]:
  """The columns of a panel in their order, and row -> its cells, None where there is none."""
  columns = list(dict.fromkeys(c for cells in panel.values() for c in cells))
  return columns, {row: [cells.get(c) for c in columns] for row, cells in panel.items()}


def rows_of(panel: Mapping[str, Mapping[str, Mapping]], measures: Mapping) -> list[dict[str, str]]:
  """A row of a panel as {column: cell}, its name under ''."""
  columns, body = grid(panel)
  return [
    {'': row} | {c: text(x, measures) for c, x in zip(columns, cells, strict=True)}
    for row, cells in body.items()
  ]


def number(cell: Mapping, measures: Mapping, key: str = 'mean') -> str:
  """A number of a cell in the table's unit; the deviation stands beside a mean of several."""
  measure, value = measures[cell['measure']], cell.get(key)
  if not words.is_number(value):
    return words.DASH
  sign = '+' if key == 'difference' else ''
  digits = min(max(int(measure['digits']), 0), MAX_DIGITS)
  formatted = f'{value:{sign}.{digits}f}'
  several = key == 'mean' and cell.get('std') is not None
  return f'{formatted} ± {cell["std"]:.{digits}f}' if several else formatted


def interval(cell: Mapping, measures: Mapping) -> str:
  """The confidence interval of a cell's difference to its baseline."""
  ends, digits = cell.get('interval'), measures[cell['measure']]['digits']
  return ' to '.join(f'{x:+.{digits}f}' for x in ends) if ends else words.DASH


def text(cell: Mapping | None, measures: Mapping) -> str:
  """A cell on one line: the measured number, and the published one in brackets."""
  if cell is None:
    return ''
  measured = number(cell, measures) if cell['status'] == 'done' else cell['status']
  published = cell.get('published')
  return measured if published is None else f'{measured} ({number(cell, measures, "published")})'


def details(results: Mapping) -> list[dict[str, str]]:
  """One row per cell that was run or published, with all its numbers."""
  rows, measures = [], results['measures']
  all_cells = [
    cell for body in results['panels'].values() for cells in body.values() for cell in cells.values()
  ]
  tested = any(cell.get('interval') for cell in all_cells)
  for panel, body in results['panels'].items():
    for row, cells in body.items():
      for column, cell in cells.items():
        baseline_values = cell.get('baseline')
        baseline = (
          {'measure': cell['measure'], 'mean': sum(baseline_values) / len(baseline_values)}
          if baseline_values
          else None
        )
        labels = {'panel': panel} if len(results['panels']) > 1 else {}
        rows.append(
          labels
          | {
            'row': row,
            'column': column,
            'measured': number(cell, measures) if cell['status'] == 'done' else cell['status'],
            'published': number(cell, measures, 'published'),
            'difference': number(cell, measures, 'difference'),
            'baseline': number(baseline, measures) if baseline else words.DASH,
            **({'to baseline, 95 %': interval(cell, measures)} if tested else {}),
            'p (FDR)': words.p_cell(cell.get('p_adjusted')),
            'values': str(len(cell.get('values') or ())) if cell['status'] == 'done' else words.DASH,
            'unit': measures[cell['measure']]['unit'],
          }
        )
  return rows


def setting(results: Mapping) -> list[tuple[str, str]]:
  """What a reader needs to judge the table and to repeat it, as (label, text)."""
  wall_time = duration(results['wall_time_s']) if results['wall_time_s'] else words.DASH
  entries = [
    ('Status', results['status']),
    ('Paper', results['paper']),
    ('Published numbers', results['source']),
    ('Checkpoint', results['selection']),
    ('Command', results['command']),
    ('Hardware', '; '.join(results['hardware']) or words.DASH),
    ('Time, all experiments together', wall_time),
    (
      'p',
      'paired t-test against the baseline of the same budget, corrected over all cells (FDR)',
    ),
  ]
  return [(k, v) for k, v in entries if v]


def terminal(results: Mapping) -> Group:
  """Every panel, for `rich.print`; one that is too wide for the terminal has a line per cell."""
  heading = f'{results["title"]}: {results["status"]}. In brackets: published.'
  panels = [_PanelTable(title, panel, results['measures']) for title, panel in results['panels'].items()]
  return Group(Text(heading, style='bold'), *panels)


class _PanelTable:
  def __init__(self, title, panel, measures):
    columns, body = grid(panel)
    self.title = title
    self.rows = [['', *columns]] + [[row, *(text(c, measures) for c in cells)] for row, cells in body.items()]

  def __rich_console__(self, console, options):
    head, *body = self.rows
    wide = sum(max(len(row[i]) for row in self.rows) + 2 for i in range(len(head)))
    if wide > options.max_width:
      body = [[row[0], c, x] for row in body for c, x in zip(head[1:], row[1:], strict=True) if x]
      head = ['', '', '']
    rich_table = Table(
      box=box.SIMPLE_HEAD, title=Text(self.title), title_justify='left', show_header=any(head)
    )
    for i, column in enumerate(head):
      rich_table.add_column(
        Text(column), justify='right' if i == len(head) - 1 or any(head) and i else 'left'
      )
    for row in body:
      rich_table.add_row(*map(Text, row))
    yield rich_table


def markdown(results: Mapping) -> str:
  """The panels, the setting, and every cell in full."""
  lines = [f'# {_one_line(results["title"])}', '', 'Measured, and in brackets what the paper prints.', '']
  for title, panel in results['panels'].items():
    lines += [f'## {_one_line(title)}', '', *markdown_table(rows_of(panel, results['measures'])), '']
  lines += [f'- {k}: ' + (f'`{v}`' if k == 'Command' else _one_line(v)) for k, v in setting(results)]
  lines += [f'- {_one_line(note)}' for note in results['notes']]
  lines += ['', '## Every cell', '', *markdown_table(details(results))]
  return '\n'.join([*lines, ''])


def _one_line(string: str) -> str:
  """The string on one line, without HTML."""
  return ' '.join(string.split()).replace('<', r'\<')


def latex(results: Mapping) -> str:
  """The panels as tabular environments for booktabs."""
  lines = [
    f'% {_one_line(results["title"])}: {_one_line(results["status"])}',
    f'% {_one_line(results["command"])}',
  ]
  for title, panel in results['panels'].items():
    columns, body = grid(panel)
    lines += [f'% {_one_line(title)}', r'\begin{tabular}{l' + 'r' * len(columns) + '}', r'\toprule']
    lines += [_latex_row(['', *map(_latex_escape, columns)]), r'\midrule']
    for row, cells in body.items():
      texts = [_latex_escape(text(c, results['measures'])).replace('±', r'$\pm$') for c in cells]
      lines.append(_latex_row([_latex_escape(row), *texts]))
    lines += [r'\bottomrule', r'\end{tabular}', '']
  return '\n'.join(lines)


def _latex_row(cells):
  return ' & '.join(cells) + r' \\'


def _latex_escape(string: str) -> str:
  special = {'\\': r'\textbackslash{}', '→': r'$\to$', '×': r'$\times$', '≥': r'$\geq$', 'γ': r'$\gamma$'}
  special |= {c: f'\\{c}' for c in '&%$#_{}'} | {'~': r'\textasciitilde{}', '^': r'\textasciicircum{}'}
  special |= {words.DASH: '--'}
  return ''.join(special.get(c, c) for c in string)


def standings(all_results: Sequence[Mapping]) -> list[dict[str, str]]:
  """One row per table: its status, how many cells were run, the hardware, and the command."""
  rows = []
  for results in all_results:
    cells = [c for panel in results['panels'].values() for row in panel.values() for c in row.values()]
    rows.append(
      {
        'table': results['title'],
        'status': results['standing'],
        'cells run': f'{sum(c["status"] == "done" for c in cells)} of {len(cells)}',
        'hardware': '; '.join(results['hardware']) or words.DASH,
        'time': duration(results['wall_time_s']) if results['wall_time_s'] else words.DASH,
        'command': results['command'],
      }
    )
  return rows


def index_markdown(all_results: Sequence[Mapping]) -> str:
  """The standings, with links to the tables in the same folder."""
  rows = standings(all_results)
  lines = ['# Tables of papers', '', f'Made by `{program()} tables`.', '', *markdown_table(rows)[:2]]
  for results, row in zip(all_results, rows, strict=True):
    title = _one_line(row['table'])
    link = f'[{title}]({results["name"]}.md)' if results['written'] else title
    lines.append('| ' + ' | '.join((link, *list(row.values())[1:-1], f'`{row["command"]}`')) + ' |')
  return '\n'.join([*lines, ''])
