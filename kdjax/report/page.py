"""The report as one self-contained HTML page."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib import resources

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from kdjax.report import (
  cards,
  classes,
  exports,
  frontier,
  modality_robustness,
  plots,
  ranking,
  table_plots,
  tables,
  words,
)
from kdjax.report.table import config_text, others, parts, rows, setting
from kdjax.runtime.progress import counted

PREDICTIONS = (
  'Predictions of the first seed; of examples with one label, up to half are those with a wrong prediction.'
)
_BADGES = {'better': '✓ better', 'inconclusive': '≈ inconclusive', 'worse': '✗ worse'}


def html(results: Mapping, curves: Mapping[str, Sequence[Mapping]], examples: Sequence[Mapping]) -> str:
  """The comparison as a page; everything it shows is inside the returned text."""
  return _render(
    name=results['name'],
    dataset=results['dataset'],
    kind=results.get('verdict'),
    badge=_BADGES.get(results.get('verdict', ''), ''),
    verdict=words.unbroken(words.verdict(results)),
    notes=words.notes(results),
    tables=_tables(results),
    dots={stage: stage for stage in words.STAGES},
    figures=list(_result_plots(results, curves)),
    command=results.get('command') or '',
    cards=[_card(example) for example in examples],
    setting=setting(results),
    config=config_text(results),
  )


def ranking_html(ranked: Mapping) -> str:
  """The ranking of a cohort as a page."""
  table = ranking.rows_of(ranked)
  figure = plots.ranking(ranked)
  title = f'{ranked["metric"]} of every member on {ranked["split"]}'
  caption = 'Mean and one standard deviation over seeds.'
  plot = {
    'title': title,
    'caption': caption,
    'svg': Markup(plots.svg(figure, title)) if figure else '',
    'wide': True,
  }
  return _render(
    name=ranked['name'],
    dataset=ranked['dataset'],
    kind=None,
    badge='',
    verdict=words.unbroken(ranking.verdict(ranked)),
    notes=[],
    tables=[{'title': 'Comparison', 'rows': table}],
    dots={r['name']: 'student' for r in ranked['rows']} | {s: s for s in ranked['stages']},
    figures=[plot] if figure else [],
    command=ranked['command'],
    cards=[],
    setting=ranking.setting(ranked),
    config=config_text({'config': {r['name']: r.get('methods') for r in ranked['rows']}}),
  )


def frontier_html(shipped: Mapping) -> str:
  """The forms of a student as a page."""
  drawn = [
    {'title': title, 'caption': caption, 'svg': Markup(plots.svg(figure, title)), 'wide': True}
    for figure, title, caption in frontier.figures(shipped)
  ]
  return _render(
    name=f'{shipped["name"]}: to ship',
    dataset='',
    kind='better' if shipped['chosen'] else 'inconclusive',
    badge='✓ chosen' if shipped['chosen'] else 'nothing chosen',
    verdict=frontier.verdict(shipped),
    notes=shipped['notes'],
    tables=[{'title': 'Forms', 'rows': frontier.rows(shipped), 'scrolls': True}],
    dots={},
    figures=drawn,
    command=shipped['command'],
    cards=[],
    setting=[(k.capitalize(), str(shipped[k])) for k in ('split', 'seeds', 'hardware', 'tolerance')],
    config='',
  )


def table_html(results: Mapping) -> str:
  """A paper's table as a page, with one plot per panel."""
  panels, measures = results['panels'], results['measures']
  sections = [{'title': title, 'rows': tables.rows_of(panel, measures)} for title, panel in panels.items()]
  all_cells = {'title': 'Every cell', 'rows': tables.details(results)}
  return _render(
    name=results['title'],
    dataset='',
    kind=None,
    badge='',
    verdict=f'{results["status"].capitalize()}. Measured, and in brackets what the paper prints.',
    notes=results['notes'],
    tables=[*sections, all_cells],
    dots={},
    figures=list(_panel_plots(results)),
    command=results['command'],
    cards=[],
    setting=tables.setting(results),
    config='',
  )


def index_html(all_results: Sequence[Mapping]) -> str:
  """All tables on one page: the status of each, and the plots of those that were run."""
  rows = tables.standings(all_results)
  n_done = sum(row['status'] == 'run here' for row in rows)
  return _render(
    name='Tables of papers',
    dataset='',
    kind=None,
    badge='',
    verdict=f'{n_done} of {len(all_results)} tables were run here; the others are recipes, ready to run.',
    notes=[],
    tables=[{'title': 'Tables', 'rows': [{k: v for k, v in r.items() if k != 'command'} for r in rows]}],
    dots={},
    figures=[figure for results in all_results for figure in _panel_plots(results, f'{results["title"]}: ')],
    cards=[],
    setting=[
      (results['title'], ' '.join((f'{results["paper"]}. {results["command"]}.', *results['notes'])))
      for results in all_results
    ],
    config='',
  )


def data_html(summary: Mapping, sections: Sequence[Mapping], examples: Sequence[Mapping]) -> str:
  """The summary of a data set as a page: its tables, and a few examples."""
  splits = ', '.join(f'{split} {s["examples"]:,}' for split, s in summary['splits'].items())
  classes = f', {counted(len(summary["classes"]), "class")}' if summary['classes'] else ''
  setting = {k.capitalize(): summary[k] for k in ('path', 'task', 'licence', 'fingerprint') if summary[k]}
  return _render(
    name=summary['name'],
    dataset='',
    kind=None,
    badge='',
    verdict=f'{splits}{classes}.',
    notes=summary['notes'],
    tables=sections,
    dots={},
    figures=[],
    cards=[_card(example) for example in examples],
    cards_note='Of train, evenly spaced.',
    setting=list(setting.items()),
    config='',
  )


def _panel_plots(results, prefix=''):
  for title, panel in results['panels'].items():
    figure, caption = table_plots.panel(panel, results['measures'])
    if figure is not None:
      svg = Markup(plots.svg(figure, prefix + title))
      plot = {'title': prefix + title, 'caption': caption, 'svg': svg}
      yield plot | ({'command': results['command']} if prefix else {})


def _tables(results):
  sections = [('Comparison', rows(results)), ('Other metrics', others(results))]
  sections.append(
    ('Missing modalities', modality_robustness.rows(results) if 'modality_robustness' in results else [])
  )
  sections += parts(results)
  per_class, pairs = classes.rows(results), classes.confused(results)
  sections = [{'title': title, 'rows': body} for title, body in sections if body]
  exported = exports.rows(results.get('exports') or {})
  if exported:
    note = f'Each on the whole {results.get("split")} split, in its own runtime.'
    sections += [{'title': 'Exports', 'rows': exported, 'note': note, 'scrolls': True}]
  if per_class:
    note = f"On {results.get('split')}, mean over seeds; the classes with the student's lowest F1 first."
    layout = {'scrolls': True, 'shown': classes.SHOWN}
    sections.append({'title': 'Classes', 'rows': per_class, 'note': note} | layout)
  if pairs:
    seeds = counted(results['confusion']['seeds'], 'seed')
    note = f'Of the student on {results.get("split")}, summed over {seeds}.'
    sections.append({'title': 'Most confused classes', 'rows': pairs, 'note': note, 'scrolls': True})
  return sections


def _render(*, tables, figures, command='', **context):
  template = resources.files('kdjax.report').joinpath('page.html').read_text(encoding='utf-8')
  environment = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
  )
  tables = [{'note': '', 'scrolls': False, 'shown': len(table['rows'])} | table for table in tables]
  plain = {'svg': '', 'matrix': None, 'wide': False, 'command': command}
  context |= {'tables': tables, 'figures': [plain | figure for figure in figures]}
  return environment.from_string(template).render({'cards_note': PREDICTIONS} | context)


def _result_plots(results, curves):
  metric, split, config = results['metric'], results.get('split'), results.get('config') or {}
  shade = 'Mean over seeds; the shade runs from the lowest to the highest seed.'
  transfer = (config.get('data') or {}).get('transfer')
  trained_on = f'train; student and baseline on {transfer}' if transfer else 'train'
  figures = (
    (plots.learning_curve(results, curves), f'{metric} on validation during training', shade),
    (plots.training_loss(curves), f'Loss on {trained_on}', shade),
    (
      plots.losses(curves.get('student') or (), results.get('losses') or {}),
      f"Terms of the student's loss on {transfer or 'train'}",
      f'Each with its weight. {shade}',
    ),
    (
      plots.metric_against_size(results),
      f'{metric} on {split} against size',
      'Bars: one standard deviation over seeds. Lines: references.',
    ),
    (
      classes.calibration(results),
      f'Calibration on {split}',
      'On the dotted line, a confidence of 80 % is right 80 % of the time; below it a model is too sure. '
      f'Without what has less than {classes.LEAST:.0%} of the examples. '
      f'{shade}',
    ),
    (plots.latency(results), 'Latency', 'Time for one example; shorter is better.'),
    *(modality_robustness.figures(results) if 'modality_robustness' in results else ()),
  )
  for figure, title, caption in figures:
    if figure is not None:
      yield {'title': title, 'caption': caption, 'svg': Markup(plots.svg(figure, title))}
  if confusion := classes.matrix(results):
    yield confusion


def _card(example):
  truth, predictions = example.get('truth'), []
  several = isinstance(truth, tuple)  # references, or a number, which a prediction need not repeat
  for stage in words.STAGES:
    output = example.get(stage)
    if isinstance(output, str):
      predictions.append({'stage': stage, 'text': output, 'right': None if several else output == truth})
    elif output is not None:
      predictions.append({'stage': stage, 'retrieved': [_content(item) for item in output]})
  return _content(example) | {'truth': ' / '.join(truth) if several else truth, 'predictions': predictions}


def _content(item):
  """The pictures, the text and the correctness that a card shows."""
  pictures = [
    {'about': about, 'source': _png(x), 'wide': x.shape[1] > 2 * x.shape[0]}
    for about, x in cards.pictures(item)
  ]
  return {'pictures': pictures, 'text': item.get('text'), 'right': item.get('right')}


def _png(image):
  image = np.asarray(image, dtype=np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format='PNG')
  return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode('ascii')
