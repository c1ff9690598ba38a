"""The comparison table: computed once as text, shown in the terminal and in Markdown."""

import json
import re
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kdjax.report import classes, exports, modality_robustness, words
from kdjax.runtime.progress import counted, duration

OPTIONAL = ('ECE', 'agreement with teacher', 'KL to teacher')  # columns that are left out where unknown
# Columns of numbers with the same decimals, and their keys.
NUMBERS = {'latency, batch 1 (ms)': 'latency_ms', 'throughput (/s)': 'throughput_per_s', 'ECE': 'ece'}
NUMBERS |= {'KL to teacher': 'kl_to_teacher'}
_WIDE = 130
DRAWN = {'labels': 'the labelled subset', 'order': 'the order of the data', 'teacher': 'the teacher'}
_STYLES = {'better': 'bold green', 'inconclusive': 'bold yellow', 'worse': 'bold red'}


def rows(results: Mapping) -> list[dict[str, str]]:
  """One row per stage, then one per reference, each {column: cell}.

  The only place that turns the measured numbers into cells. An unknown number is an en
  dash; a cell that makes no sense for a reference is empty.
  """
  metric = results['metric']
  stages = [name for name in words.STAGES if name in results['stages']]
  out = [_stage_row(results, name) for name in stages]
  for column, key in NUMBERS.items():
    cells = words.column([_known(results, name, key) for name in stages])
    for row, cell in zip(out, cells, strict=True):
      row[column] = cell
  for column in OPTIONAL:
    if all(row[column] == words.DASH for row in out):
      for row in out:
        del row[column]
  columns = out[0] if out else ('model', metric)
  for name, value in (results.get('references') or {}).items():
    row = dict.fromkeys(columns, '')
    out.append(row | {'model': name, metric: words.score(value, metric, words.digits(results))})
  return out


def others(results: Mapping) -> list[dict[str, str]]:
  """A row for each metric that has no column in `rows`, with its score in every stage."""
  stages = {s: results['stages'][s].get('others') or {} for s in words.STAGES if s in results['stages']}
  names = dict.fromkeys(k for s in stages.values() for k in s)
  excluded = ('ece', 'agreement (teacher)', 'kl_to_teacher (teacher)')
  out = []
  for name in (n for n in names if n not in excluded):
    metric = name.partition(' (')[0]
    values = {s: metrics[name] for s, metrics in stages.items() if name in metrics}
    stds = [stdev(v) for v in values.values() if len(v) > 1]
    digits = words.common_digits(metric, [fmean(v) for v in values.values()], stds)
    cells = {s: words.measured(values[s], metric, digits) if s in values else '' for s in stages}
    out.append({'metric': name} | cells)
  return out


def _known(results, name, key):
  """A number of a stage; the student's comparison with the teacher may be given for the whole run only."""
  value = results['stages'][name].get(key)
  return results.get(key) if value is None and name == 'student' else value


def _stage_row(results, name):
  stage = results['stages'][name]
  smaller = words.times_smaller(results, name)
  count = words.scaled(stage.get('params'), ('', 'k', 'M', 'B', 'T'))
  return {
    'model': name,
    results['metric']: words.stage_score(results, name),
    'seeds': str(len(stage.get('values') or ())) if stage.get('values') else words.DASH,
    'parameters': f'{count} ({smaller}x smaller)' if smaller else count,
    'size': words.scaled(stage.get('bytes'), ('B', 'KB', 'MB', 'GB', 'TB')),
    'FLOPs / example': words.scaled(stage.get('flops_per_example'), ('', 'k', 'M', 'G', 'T', 'P')),
    **dict.fromkeys(('latency, batch 1 (ms)', 'throughput (/s)', 'ECE'), ''),
    'agreement with teacher': words.score(_known(results, name, 'agreement'), 'agreement'),
  }


def table(results: Mapping) -> Group:
  """The table and the verdict, for `rich.print`."""
  style = _STYLES.get(results.get('verdict', ''), 'bold')
  lines = [Text(words.unbroken(words.verdict(results)), style=style)]
  lines += [Text(note, style='italic') for note in words.notes(results)]
  return Group(_ResponsiveTable(results), *lines)


class _ResponsiveTable:
  """A row per model where the terminal is wide enough, else a column per model."""

  def __init__(self, results):
    self._rows = rows(results)
    self._title = _title(results)
    self._metric = results['metric']

  def __rich_console__(self, console, options):
    wide = options.max_width >= _WIDE
    stages = [row for row in self._rows if row['model'] in words.STAGES]
    body = self._rows if wide or not stages else stages
    grid = [list(row) for row in body[:1]] + [list(row.values()) for row in body]
    if body is not self._rows:
      grid = list(zip(*grid, strict=True))
    rich_table = Table(box=box.SIMPLE_HEAD, title=Text(self._title), title_justify='left')
    for i, cell in enumerate(grid[0] if grid else ()):
      rich_table.add_column(Text(cell), justify='right' if i else 'left', overflow='fold')
    for line in grid[1:]:
      rich_table.add_row(*map(Text, line))
    yield rich_table
    # A column for one number each would squeeze the models.
    references = [f'{r["model"]} {r[self._metric]}' for r in self._rows if r not in body]
    if references:
      yield Text(f'References: {", ".join(references)}')


def markdown(results: Mapping) -> str:
  """The report as Markdown: verdict, table and setting."""
  lines = [f'# {_escape(_title(results))}', '', f'**{_escape(words.verdict(results))}**', '']
  for note in words.notes(results):
    lines += [_escape(note), '']
  lines += markdown_table(rows(results))
  if other_metrics := others(results):
    lines += ['', '## Other metrics', '', *markdown_table(other_metrics)]
  if 'modality_robustness' in results:
    lines += ['', '## Missing modalities', '', *markdown_table(modality_robustness.rows(results))]
  for title, body in parts(results):
    lines += ['', f'## {title}', '', *markdown_table(body)]
  if exported := exports.rows(results.get('exports') or {}):
    lines += ['', '## Exports', '', *markdown_table(exported)]
  if per_class := classes.rows(results):
    shown, title = per_class[: classes.SHOWN], '## Classes'
    title += f', the {len(shown)} of {len(per_class)} with the lowest F1' if per_class[len(shown) :] else ''
    lines += ['', title, '', *markdown_table(shown)]
  lines += ['', '## Setting', '']
  # A code span, so that the command can be copied; double backticks, since it may contain one.
  lines += [
    f'- {label}: ' + (f'`` {text} ``' if label == 'Command' else _escape(text))
    for label, text in setting(results)
  ]
  fence = '~~~~'
  lines += [
    '',
    '<details><summary>Full configuration</summary>',
    '',
    f'{fence}json',
    config_text(results).replace(fence, '~~~'),
    fence,
    '',
    '</details>',
    '',
  ]
  return '\n'.join(lines)


def parts(results: Mapping) -> list[tuple[str, list[dict[str, str]]]]:
  """(title, a row a part with the score of every stage), of the test's domains and of further splits."""
  titles = {'domains': ('Domains', 'domain'), 'also': ('Other splits', 'split')}
  return [(title, _rows(results, results[k], what)) for k, (title, what) in titles.items() if results.get(k)]


def _rows(results, scored, what):
  metric = results['metric']
  stages = [s for s in words.STAGES if s in results['stages']]
  means = [fmean(values) for part in scored.values() for values in part['stages'].values()]
  digits = words.common_digits(metric, means)
  return [
    {what: name, 'examples': f'{part["count"]:,}'}
    | {
      f'{metric}, {s}': words.measured(part['stages'][s], metric, digits)
      for s in stages
      if s in part['stages']
    }
    for name, part in scored.items()
  ]


def setting(results: Mapping) -> list[tuple[str, str]]:
  """What a reader needs to repeat the run, as (label, text)."""
  count = results.get('n_examples')
  times = [
    f'{name} {_training(results["stages"][name])}' for name in words.STAGES if name in results['stages']
  ]
  entries = [
    ('Command', results.get('command')),
    ('Hardware', results.get('hardware')),
    ('Training', '; '.join(times)),
    ('Measured on', f'{results.get("split")}' + (f', {counted(count, "example")}' if count else '')),
    ('Training examples', _examples(results)),
    ('Seeds', seeds(results)),
    *_losses(results),
    ('Checkpoint selection', results.get('selection')),
    ('Versions', ', '.join(f'{k} {v}' for k, v in (results.get('versions') or {}).items())),
  ]
  return [(label, str(text) if text else words.DASH) for label, text in entries]


def seeds(results: Mapping) -> str:
  """The seeds, what each of them redraws, and what they share, whose variance p leaves out."""
  drawn = ['initial weights', *(DRAWN[k] for k in results.get('redrawn') or ())]
  shared = [part for part in DRAWN.values() if part not in drawn]
  text = f'{", ".join(map(str, results.get("seeds") or ()))}; each draws {", ".join(drawn)}'
  return text + (f'; all share {", ".join(shared)}' if shared else '')


def config_text(results: Mapping) -> str:
  """The full configuration as indented JSON."""
  return json.dumps(results.get('config') or {}, indent=2, default=str, ensure_ascii=False)


def _examples(results):
  counts = results.get('n_train') or {}
  return ', '.join(f'{name} {count:,}' for name, count in counts.items())


def _losses(results):
  """What the terms of the student's loss are, where it has any from methods."""
  terms = results.get('losses') or {}
  return [("The student's losses", '; '.join(f'{k}: {v}' for k, v in terms.items()))] if terms else []


def _training(stage):
  if stage.get('steps') == 0:
    return 'not trained in this run'
  steps = counted(stage['steps'], 'step') if words.is_number(stage.get('steps')) else f'{words.DASH} steps'
  return f'{steps} in {_time(stage.get("wall_time_s"))}'


def _time(seconds):
  return duration(seconds) if words.is_number(seconds) else words.DASH


def _title(results):
  return f'{results["name"]} on {results["dataset"]}'


def markdown_table(body: Sequence[Mapping[str, str]]) -> list[str]:
  """Lines of a table of {column: cell}, numbers to the right."""
  if not body:
    return []
  head = [_markdown_row(body[0]), _markdown_row(['---'] + ['---:'] * (len(body[0]) - 1))]
  return head + [_markdown_row(row.values()) for row in body]


def _escape(text):
  """`text` on one line, with Markdown's special characters escaped."""
  return re.sub(r'([\\`*|<>\[\]])', r'\\\1', ' '.join(str(text).split()))


def _markdown_row(cells):
  return '| ' + ' | '.join(map(_escape, cells)) + ' |'
