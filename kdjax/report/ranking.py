"""The ranking of a cohort: the same table in the terminal, in Markdown and on a page."""

from collections.abc import Mapping

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kdjax.report import words
from kdjax.report.table import seeds
from kdjax.runtime.progress import counted, duration

COLUMNS = ('difference', '95 % interval', 'd_z', 'p', 'p (FDR)', 'verdict', 'gap', 'cost')
_STYLES = {'better': 'green', 'worse': 'red'}


def rows_of(ranked: Mapping) -> list[dict[str, str]]:
  """One row per member, best first, then the baseline and the teacher, each {column: cell}."""
  metric, digits = ranked['metric'], _digits(ranked)
  out = []
  for row in ranked['rows']:
    cells = dict.fromkeys(('model', metric, *COLUMNS), '')
    cells['model'] = row['name']
    if 'failed_at' in row:
      out.append(cells | {'verdict': f'not finite by step {row["failed_at"]}'})
      continue
    gap = row['gap_recovered']
    cells[metric] = words.score(row['mean'], metric, digits, row['std'])
    cells['difference'] = words.signed(row['difference'], metric, digits)
    cells['95 % interval'] = words.interval(row['interval'], metric, digits)
    cells['d_z'] = f'{row["effect"]:.2f}' if words.is_number(row['effect']) else words.DASH
    cells |= {'p': words.p_cell(row['p_value']), 'p (FDR)': words.p_cell(row['p_adjusted'])}
    cells |= {'verdict': row['verdict'], 'gap': words.DASH if gap is None else f'{100 * gap:.0f} %'}
    out.append(cells | {'cost': words.DASH if row['cost'] is None else f'{row["cost"]:.2f}×'})
  baselines = {f'baseline of {r["name"]}': r.get('own_baseline') for r in ranked['rows']}
  for name, stage in sorted(({k: v for k, v in baselines.items() if v} | ranked['stages']).items()):
    several = len(stage['values']) > 1
    score = words.score(stage['mean'], metric, digits, stage['std'] if several else None)
    out.append(dict.fromkeys(out[0] if out else ('model', metric), '') | {'model': name, metric: score})
  return out


def _digits(ranked):
  """Decimals of the scores of all members: two of a percentage."""
  if words.is_share(ranked['metric']):
    return 2
  scored = [r for r in (*ranked['rows'], *ranked['stages'].values()) if 'mean' in r]
  return words.common_digits(ranked['metric'], [r['mean'] for r in scored], [r['std'] for r in scored])


def verdict(ranked: Mapping) -> str:
  """The result of the ranking in one sentence."""
  tested = [r for r in ranked['rows'] if 'failed_at' not in r]
  if not tested:
    return 'No member of the cohort was trained to its end.'
  counts = {v: sum(r['verdict'] == v for r in tested) for v in ('better', 'worse', 'inconclusive')}
  best = tested[0]
  score = words.score(best['mean'], ranked['metric'], _digits(ranked), best['std'])
  return (
    f'Of {counted(len(ranked["rows"]), "member")}, {counts["better"]} better than the baseline, '
    f'{counts["worse"]} worse, {counts["inconclusive"]} not clearly either '
    f'(paired t-test over {counted(len(ranked["seeds"]), "seed")}, corrected for the number of tests). '
    f'First: {best["name"]} with {score}.'
  )


def table(ranked: Mapping) -> Group:
  """The table and the sentence, for `rich.print`."""
  hidden = ('95 % interval', 'd_z', 'p', 'gap')  # so that it fits into 80 columns
  rows = [{k: v for k, v in row.items() if k not in hidden} for row in rows_of(ranked)]
  layout = {'title_justify': 'left', 'pad_edge': False, 'collapse_padding': True}
  rich_table = Table(box=box.SIMPLE_HEAD, title=Text(title(ranked)), **layout)
  for i, column in enumerate(rows[0] if rows else ()):
    rich_table.add_column(Text(column), justify='right' if i else 'left', no_wrap=True)
  for row in rows:
    rich_table.add_row(*(Text(cell, style=_STYLES.get(cell, '')) for cell in row.values()))
  return Group(rich_table, Text(words.unbroken(verdict(ranked)), style='bold'))


def markdown(ranked: Mapping) -> str:
  """The table, the sentence, and the setting."""
  rows = rows_of(ranked)
  lines = [f'# {title(ranked)}', '', f'**{verdict(ranked)}**', '']
  if rows:
    lines += [' | '.join(('', *rows[0], '')).strip(), '|' + '---|' + '---:|' * (len(rows[0]) - 1)]
    lines += [' | '.join(('', *(cell or ' ' for cell in row.values()), '')).strip() for row in rows]
  settings = [f'- {k}: ' + (f'`{text}`' if k == 'Command' else text) for k, text in setting(ranked)]
  lines += ['', *settings, '']
  return '\n'.join(lines)


def setting(ranked: Mapping) -> list[tuple[str, str]]:
  """What a reader needs to judge the ranking and to repeat it, as (label, text)."""
  counts = ', '.join(f'{k} {v:,}' for k, v in ranked['n_train'].items())
  training = ranked['training']
  return [
    ('Command', ranked['command']),
    ('Hardware', ranked['hardware']),
    (
      'Training',
      f'{counted(training["steps"], "step")} each, all of them in {duration(training["wall_time_s"])}',
    ),
    ('Training examples', counts),
    ('Measured on', f'{ranked["split"]}, {counted(ranked["n_examples"], "example")}'),
    ('Seeds', seeds(ranked)),
    ('Checkpoint selection', ranked['selection']),
    ('Difference', 'to the baseline, in points, with its 95 % interval (not corrected)'),
    ('d_z', "Cohen's effect size: the difference in standard deviations of the differences"),
    (
      'p',
      'paired t-test against the baseline; FDR: corrected for the number of tests (Benjamini & Hochberg)',
    ),
    ('Gap', "share of the teacher's lead over the baseline that the student recovers"),
    ('Cost', "time of the student's update, against the cheapest one here"),
  ]


def title(ranked: Mapping) -> str:
  return f'{ranked["name"]} on {ranked["dataset"]}'
