"""A paper's table: measured beside published, in the terminal, Markdown, HTML and LaTeX."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kdjax.progress import duration
from kdjax.report import words
from kdjax.report.table import markdown_table

MOST = 12  # decimals


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
  if words.missing(value):
    return words.DASH
  sign = '+' if key == 'difference' else ''
  digits = min(max(int(measure['digits']), 0), MOST)
  shown = f'{value:{sign}.{digits}f}'
  several = key == 'mean' and cell.get('std') is not None
  return f'{shown} ± {cell["std"]:.{digits}f}' if several else shown


def interval(cell: Mapping, measures: Mapping) -> str:
  """The confidence interval of a cell's difference to its baseline."""
  ends, digits = cell.get('interval'), measures[cell['measure']]['digits']
  return ' to '.join(f'{x:+.{digits}f}' for x in ends) if ends else words.DASH


def text(cell: Mapping | None, measures: Mapping) -> str:
  """A cell in one line: what was measured, and in brackets what was published."""
  if cell is None:
    return ''
  mine = number(cell, measures) if cell['status'] == 'done' else cell['status']
  published = cell.get('published')
  return mine if published is None else f'{mine} ({number(cell, measures, "published")})'


def details(found: Mapping) -> list[dict[str, str]]:
  """A row a cell that was run or published, with all that is known of it."""
  rows, measures = [], found['measures']
  every = [cell for body in found['panels'].values() for cells in body.values() for cell in cells.values()]
  tested = any(cell.get('interval') for cell in every)
  for panel, body in found['panels'].items():
    for row, cells in body.items():
      for column, cell in cells.items():
        base = cell.get('baseline')
        baseline = {'measure': cell['measure'], 'mean': sum(base) / len(base)} if base else None
        where = {'panel': panel} if len(found['panels']) > 1 else {}
        rows.append(
          where
          | {
            'row': row,
            'column': column,
            'measured': number(cell, measures) if cell['status'] == 'done' else cell['status'],
            'published': number(cell, measures, 'published'),
            'difference': number(cell, measures, 'difference'),
            'baseline': number(baseline, measures) if baseline else words.DASH,
            **({'to baseline, 95 %': interval(cell, measures)} if tested else {}),
            'p (FDR)': words.plain(cell.get('p_adjusted')),
            'values': str(len(cell.get('values') or ())) if cell['status'] == 'done' else words.DASH,
            'unit': measures[cell['measure']]['unit'],
          }
        )
  return rows


def setting(found: Mapping) -> list[tuple[str, str]]:
  """What a reader needs to judge the table and to repeat it, as (label, text)."""
  took = duration(found['wall_time_s']) if found['wall_time_s'] else words.DASH
  given = [
    ('Status', found['status']),
    ('Paper', found['paper']),
    ('Published numbers', found['source']),
    ('Checkpoint', found['selection']),
    ('Command', found['command']),
    ('Hardware', '; '.join(found['hardware']) or words.DASH),
    ('Time, all experiments together', took),
    (
      'p',
      'paired t-test against the baseline of the same budget, corrected over all cells (FDR)',
    ),
  ]
  return [(k, v) for k, v in given if v]


def terminal(found: Mapping) -> Group:
  """Every panel, for `rich.print`; one that is too wide for the terminal has a line a cell."""
  said = f'{found["title"]}: {found["status"]}. In brackets: published.'
  shown = [_Fitting(title, panel, found['measures']) for title, panel in found['panels'].items()]
  return Group(Text(said, style='bold'), *shown)


class _Fitting:
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
    made = Table(box=box.SIMPLE_HEAD, title=Text(self.title), title_justify='left', show_header=any(head))
    for i, column in enumerate(head):
      made.add_column(Text(column), justify='right' if i == len(head) - 1 or any(head) and i else 'left')
    for row in body:
      made.add_row(*map(Text, row))
    yield made


def markdown(found: Mapping) -> str:
  """The panels, every cell in full, and what it takes to make it again."""
  lines = [f'# {_line(found["title"])}', '', 'Measured, and in brackets what the paper prints.', '']
  for title, panel in found['panels'].items():
    lines += [f'## {_line(title)}', '', *markdown_table(rows_of(panel, found['measures'])), '']
  lines += [f'- {k}: ' + (f'`{v}`' if k == 'Command' else _line(v)) for k, v in setting(found)]
  lines += [f'- {_line(note)}' for note in found['notes']]
  lines += ['', '## Every cell', '', *markdown_table(details(found))]
  return '\n'.join([*lines, ''])


def _line(given: str) -> str:
  """On one line, and no HTML."""
  return ' '.join(given.split()).replace('<', r'\<')


def latex(found: Mapping) -> str:
  """The panels as tabular environments for booktabs."""
  lines = [f'% {_line(found["title"])}: {_line(found["status"])}', f'% {_line(found["command"])}']
  for title, panel in found['panels'].items():
    columns, body = grid(panel)
    lines += [f'% {_line(title)}', r'\begin{tabular}{l' + 'r' * len(columns) + '}', r'\toprule']
    lines += [_row(['', *map(_escaped, columns)]), r'\midrule']
    for row, cells in body.items():
      shown = [_escaped(text(c, found['measures'])).replace('±', r'$\pm$') for c in cells]
      lines.append(_row([_escaped(row), *shown]))
    lines += [r'\bottomrule', r'\end{tabular}', '']
  return '\n'.join(lines)


def _row(cells):
  return ' & '.join(cells) + r' \\'


def _escaped(given: str) -> str:
  special = {'\\': r'\textbackslash{}', '→': r'$\to$', '×': r'$\times$', '≥': r'$\geq$', 'γ': r'$\gamma$'}
  special |= {c: f'\\{c}' for c in '&%$#_{}'} | {'~': r'\textasciitilde{}', '^': r'\textasciicircum{}'}
  special |= {words.DASH: '--'}
  return ''.join(special.get(c, c) for c in given)


def standings(found: Sequence[Mapping]) -> list[dict[str, str]]:
  """A row a table: how it stands, with how many of its cells, on what, and the command."""
  rows = []
  for one in found:
    cells = [c for panel in one['panels'].values() for row in panel.values() for c in row.values()]
    rows.append(
      {
        'table': one['title'],
        'status': one['standing'],
        'cells run': f'{sum(c["status"] == "done" for c in cells)} of {len(cells)}',
        'hardware': '; '.join(one['hardware']) or words.DASH,
        'time': duration(one['wall_time_s']) if one['wall_time_s'] else words.DASH,
        'command': one['command'],
      }
    )
  return rows


def index_markdown(found: Sequence[Mapping]) -> str:
  """The standings, with links to the tables that lie beside the page."""
  rows = standings(found)
  lines = ['# Tables of papers', '', 'Made by `python run.py tables`.', '', *markdown_table(rows)[:2]]
  for one, row in zip(found, rows, strict=True):
    title = _line(row['table'])
    link = f'[{title}]({one["name"]}.md)' if one['kept'] else title
    lines.append('| ' + ' | '.join((link, *list(row.values())[1:-1], f'`{row["command"]}`')) + ' |')
  return '\n'.join([*lines, ''])
