"""The report as one self-contained HTML page."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib import resources

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from kdjax.report import plots, ranking, senses, table_plots, tables, words
from kdjax.report.table import config_text, others, rows, setting

_BADGES = {'better': '✓ better', 'inconclusive': '≈ inconclusive', 'worse': '✗ worse'}


def html(results: Mapping, curves: Mapping[str, Sequence[Mapping]], examples: Sequence[Mapping]) -> str:
  """The comparison as a page; everything it shows is inside the returned text."""
  return _render(
    name=results['name'],
    dataset=results['dataset'],
    kind=results.get('verdict'),
    badge=_BADGES.get(results.get('verdict'), ''),
    verdict=words.unbroken(words.verdict(results)),
    notes=words.notes(results),
    tables=_tables(results),
    dots={stage: stage for stage in words.STAGES},
    figures=list(_figures(results, curves)),
    cards=[_card(example) for example in examples],
    setting=setting(results),
    config=config_text(results),
  )


def ranking_html(ranked: Mapping) -> str:
  """The ranking of a cohort as a page."""
  table = ranking.rows_of(ranked)
  figure = plots.ranking(ranked)
  title = f'{ranked["metric"]} of every member'
  caption = 'Mean and one standard deviation over seeds.'
  shown = {'title': title, 'caption': caption, 'svg': Markup(plots.svg(figure, title)) if figure else ''}
  return _render(
    name=ranked['name'],
    dataset=ranked['dataset'],
    kind=None,
    badge='',
    verdict=words.unbroken(ranking.verdict(ranked)),
    notes=[],
    tables=[{'title': 'Comparison', 'rows': table}],
    dots={r['name']: 'student' for r in ranked['rows']} | {s: s for s in ranked['stages']},
    figures=[shown],
    cards=[],
    setting=ranking.setting(ranked),
    config=config_text({'config': {r['name']: r.get('methods') for r in ranked['rows']}}),
  )


def table_html(found: Mapping) -> str:
  """A paper's table as a page, with a plot a panel."""
  panels, measures = found['panels'], found['measures']
  shown = [{'title': title, 'rows': tables.rows_of(panel, measures)} for title, panel in panels.items()]
  every = {'title': 'Every cell', 'rows': tables.details(found)}
  return _render(
    name=found['title'],
    dataset='',
    kind=None,
    badge='',
    verdict=f'{found["status"].capitalize()}. Measured, and in brackets what the paper prints.',
    notes=found['notes'],
    tables=[*shown, every],
    dots={},
    figures=list(_panels(found)),
    cards=[],
    setting=tables.setting(found),
    config='',
  )


def index_html(found: Sequence[Mapping]) -> str:
  """All tables on one page: how each stands, and the plots of those that were run."""
  rows = tables.standings(found)
  done = sum(row['status'] == 'run here' for row in rows)
  return _render(
    name='Tables of papers',
    dataset='',
    kind=None,
    badge='',
    verdict=f'{done} of {len(found)} tables were run here; the others are recipes, ready to run.',
    notes=[],
    tables=[{'title': 'Tables', 'rows': [{k: v for k, v in r.items() if k != 'command'} for r in rows]}],
    dots={},
    figures=[figure for one in found for figure in _panels(one, f'{one["title"]}: ')],
    cards=[],
    setting=[
      (one['title'], ' '.join((f'{one["paper"]}. {one["command"]}.', *one['notes']))) for one in found
    ],
    config='',
  )


def _panels(found, before=''):
  for title, panel in found['panels'].items():
    figure, caption = table_plots.panel(panel, found['measures'])
    if figure is not None:
      svg = Markup(plots.svg(figure, before + title))
      yield {'title': before + title, 'caption': caption, 'svg': svg}


def _tables(results):
  found = [('Comparison', rows(results)), ('Other metrics', others(results))]
  found.append(('Missing modalities', senses.rows(results) if 'modality_robustness' in results else []))
  return [{'title': title, 'rows': body} for title, body in found if body]


def _render(**shown):
  template = resources.files(__package__).joinpath('page.html').read_text(encoding='utf-8')
  environment = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
  )
  return environment.from_string(template).render(**shown)


def _figures(results, curves):
  shade = 'Mean over seeds; the shade runs from the lowest to the highest seed.'
  drawn = (
    (plots.learning_curve(results, curves), f'{results["metric"]} during training', shade),
    (plots.training_loss(curves), 'Training loss', shade),
    (
      plots.metric_against_size(results),
      f'{results["metric"]} against size',
      'Bars: one standard deviation over seeds. Dashed lines: references.',
    ),
    (plots.latency(results), 'Latency', 'Time for one example; shorter is better.'),
    *(senses.figures(results) if 'modality_robustness' in results else ()),
  )
  for figure, title, caption in drawn:
    if figure is not None:
      yield {'title': title, 'caption': caption, 'svg': Markup(plots.svg(figure, title))}


def _card(example):
  truth = example.get('truth')
  answers = []
  for stage in words.STAGES:
    found = example.get(stage)
    if isinstance(found, str):
      answers.append({'stage': stage, 'text': found, 'right': found == truth})
    elif found is not None:
      answers.append({'stage': stage, 'found': [_seen(one) for one in found]})
  sound = example.get('audio')
  return _seen(example) | {
    'sound': None if sound is None else _png(plots.spectrogram(sound)),
    'truth': truth,
    'answers': answers,
  }


def _seen(one):
  """The picture, words and rightness of what a card shows."""
  image = one.get('image')
  shown = {'image': None if image is None else _png(image), 'text': one.get('text')}
  return shown | {'right': one.get('right')}


def _png(image):
  image = np.asarray(image, dtype=np.uint8)
  out = io.BytesIO()
  Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(out, format='PNG')
  return 'data:image/png;base64,' + base64.b64encode(out.getvalue()).decode('ascii')
