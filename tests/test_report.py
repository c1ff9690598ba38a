"""The report: its numbers, its honesty, and that the page stands alone."""

import io
import math
import re

import numpy as np
import pytest
from rich.console import Console

from kdjax import report
from kdjax.evaluation import class_results
from kdjax.report import classes, plots, words
from kdjax.report.table import rows


def stage(values, params, **more):
  known = {
    'values': values,
    'mean': float(np.mean(values)),
    'std': float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
    'params': params,
    'bytes': 4 * params,
    'flops_per_example': 1.9e6,
    'latency_ms': 0.71,
    'throughput_per_s': 15840.2,
    'ece': 0.0342,
    'agreement': 0.934,
    'kl_to_teacher': 0.213,
    'wall_time_s': 131.0,
    'steps': 2000,
  }
  return known | more


@pytest.fixture
def results():
  none = dict.fromkeys(('agreement', 'kl_to_teacher'))
  return {
    'name': 'quickstart',
    'dataset': 'easy_vqa',
    'task': 'classification',
    'metric': 'top1',
    'higher_is_better': True,
    'references': {'majority': 0.373, 'text-only lookup': 0.67},
    'stages': {
      'teacher': stage([0.981], 1_234_567, **none),
      'baseline': stage([0.927, 0.934, 0.93], 45_613),
      'student': stage([0.957, 0.961, 0.965], 45_613, ece=None, **none),
    },
    'gap_recovered': 0.61,
    'p_value': 0.0042,
    'verdict': 'better',
    'agreement': 0.966,
    'kl_to_teacher': 0.087,
    'ece': 0.0213,
    'selection': 'last step',
    'seeds': [0, 1, 2],
    'split': 'test',
    'n_examples': 9673,
    'hardware': '2 x CPU',
    'versions': {'jax': '0.10.2'},
    'command': 'python run.py --config=a*b',
    'config': {'student': {'width': 24}},
  }


@pytest.fixture
def curves():
  train = [{'step': s, 'loss/total': [2 / s], 'loss/task': [1 / s]} for s in (1, 50, 100)]
  return {
    'teacher': [],
    'student': [*train, {'step': 100, 'eval/top1': [0.95, 0.97, None]}],
  }


@pytest.fixture
def examples():
  image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
  answers = {'truth': 'red', 'teacher': 'red', 'baseline': 'teal', 'student': 'red'}
  return [
    answers | {'image': image, 'text': 'what colour?'},
    answers | {'image': image[..., :1]},
    {'text': 'no picture', **answers},
  ]


def written(folder, *args):
  return [path.read_text(encoding='utf-8') for path in report.write(*args, folder)]


def flat(text):
  return ' '.join(text.replace('\N{NO-BREAK SPACE}', ' ').split())


def shown(results, width):
  console = Console(width=width, file=io.StringIO())
  console.print(report.table(results))
  return flat(console.file.getvalue())


def test_the_same_numbers_everywhere(results, curves, examples, tmp_path):
  texts = written(tmp_path / 'new', results, curves, examples)
  for text in (*map(flat, texts), shown(results, 200), shown(results, 80)):
    for part in (
      '98.1 %',
      '93.0 % ± 0.4',
      '96.1 % ± 0.4',
      '37.3 %',
      '1.2 M',
      '45.6 k',
      '27x smaller',
      '182.5 KB',
      '1.9 M',
      '0.71',
      '15,840',
      '0.0213',
      '96.6 %',
      '0.087',
      'p = 0.0042',
      '61 % of the gap',
      '27 times fewer',
      'text-only lookup',
    ):
      assert part in text, part
  for text in map(flat, texts):
    for part in ('9,673 examples', '2 min 11 s', 'last step', 'jax 0.10.2', 'width', 'a*b'):
      assert part in text, part
  assert sorted(p.name for p in (tmp_path / 'new').iterdir()) == ['report.html', 'report.md']


def test_one_seed_shows_no_deviation(results):
  assert rows(results)[0]['top1'] == '98.1 %'
  results['stages']['student'] |= {'values': [0.961], 'std': 0.0}
  results |= {'p_value': None, 'verdict': 'inconclusive'}
  assert 'one seed, so no significance test' in words.verdict(results)


@pytest.mark.parametrize('unknown', [None, math.nan])
def test_unknown_numbers_are_dashes(results, unknown, tmp_path):
  for known in results['stages'].values():
    known |= {k: unknown for k, v in known.items() if not isinstance(v, list)}
  results |= dict.fromkeys(('gap_recovered', 'p_value', 'agreement', 'kl_to_teacher', 'ece'))
  assert set(list(rows(results)[2].values())[3:]) == {words.DASH}
  text, page = written(tmp_path, results, {}, [])
  assert 'No comparison' in text and 'No comparison' in page
  assert 'nan' not in text.lower() and 'None' not in text
  assert '<svg' not in page
  assert words.DASH in shown(results, 80)


def test_missing_stages_do_not_stop_it(results, tmp_path):
  del results['stages']['teacher']
  results['gap_recovered'] = None
  assert 'No comparison' not in words.verdict(results)
  results |= {'stages': {}, 'references': {}, 'config': None, 'versions': {}}
  assert 'No comparison' in written(tmp_path, results, {}, [])[1]
  assert 'No comparison' in shown(results, 80)


def test_markup_in_the_data_stays_text(results, curves, examples, tmp_path):
  evil = '<script>alert("1")</script>|[red]$\\x$'
  examples[0] |= {'text': evil, 'truth': evil, 'student': evil}
  results |= {'references': {evil: 0.5}, 'command': evil, 'config': {evil: evil}, 'metric': evil}
  text, page = written(tmp_path, results, curves, examples)
  assert '<script' not in page
  assert page.count('&lt;script&gt;') > 5
  assert '[red]' in shown(results, 400)
  cells = [line for line in text.splitlines() if line.startswith('|')]
  assert not any('<script' in re.sub(r'\\.', '', line) for line in cells)
  assert len({len(re.findall(r'(?<!\\)\|', line)) for line in cells}) == 1


def test_the_page_stands_alone(results, curves, examples, tmp_path):
  page = written(tmp_path, results, curves, examples)[1]
  spaces = {'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'}
  assert set(re.findall(r'https?://[^"\s]+', page)) == spaces
  assert not re.search(r'(src|href)="(?!data:image/png|#)', page)
  assert '@import' not in page and '<script' not in page and '<link' not in page
  assert set(re.findall(r'url\(([^)]{2})', page)) <= {'#p', '#h'}


def test_the_gallery_says_right_and_wrong_in_words(results, examples, tmp_path):
  page = written(tmp_path, results, {}, examples)[1]
  assert page.count('✓ right') == 6 and page.count('✗ wrong') == 3
  assert page.count('src="data:image/png;base64,') == 2


def test_writing_twice_gives_the_same_bytes(results, curves, examples, tmp_path):
  first, second = (report.write(results, curves, examples, tmp_path / n) for n in 'ab')
  for one, other in zip(first, second, strict=True):
    assert one.read_bytes() == other.read_bytes()


def test_the_sentence_is_plain_when_it_did_not_help(results, tmp_path):
  results |= {'verdict': 'inconclusive', 'p_value': 0.31}
  text = flat(written(tmp_path, results, {}, [])[1])
  assert 'No clear difference' in text and 'does not show that distillation helps' in text
  assert '61 % of the gap' not in text
  results |= {'verdict': 'worse', 'p_value': 0.0001}
  text = words.verdict(results)
  assert 'is worse than' in text and 'did not help' in text and 'p < 0.001' in text


def test_notes_name_what_weakens_the_result(results):
  assert words.notes(results) == []
  results['stages']['teacher']['mean'] = 0.9
  results['references']['lookup'] = 0.97
  teacher, reference = words.notes(results)
  assert 'no better' in teacher and '“lookup” (97.0 %)' in reference
  results |= {'metric': 'perplexity', 'higher_is_better': False, 'references': {'unigram': 40.0}}
  assert words.notes(results) == ['Lower perplexity is better.']


@pytest.mark.parametrize(
  ('metric', 'text'),
  [
    ('top1', '50.0 %'),
    ('accuracy', '50.0 %'),
    ('r@1', '50.0 %'),
    ('i2t/r@10', '50.0 %'),
    ('perplexity', '0.5'),
    ('mse', '0.5'),
  ],
)
def test_only_shares_are_percentages(metric, text):
  assert words.score(0.5, metric) == text


def test_a_small_difference_gets_a_second_decimal(results):
  results['stages']['student']['mean'] = results['stages']['baseline']['mean'] + 0.0004
  assert '93.07 %' in words.verdict(results)


def test_totals_are_drawn_where_a_stage_logged_no_task_loss(curves):
  axes = plots.training_loss(curves).axes[0]
  assert axes.get_ylabel() == 'loss: labels'
  curves['teacher'] = [{'step': 1, 'loss/total': [1.0]}]
  assert plots.training_loss(curves).axes[0].get_ylabel() == 'loss: total'


def classified(results, count):
  """The results with classes: of class i every example is right but i of its 50, which are called class 0."""
  label = np.repeat(np.arange(count), 50)
  answer = np.where(np.tile(np.arange(50), count) < label, 0, label)
  one = {'logits': 4 * np.eye(count, dtype=np.float32)[answer], 'label': label}
  gathered = {'teacher': [one], 'baseline': [one, one], 'student': [one, one, one]}
  return results | class_results.measure(gathered, [f'c{i}' for i in range(count)])


def test_the_classes_are_listed_the_worst_first(results, curves, tmp_path):
  few = classified(results, 5)
  first, *_, last = classes.rows(few)
  assert first['class'] == 'c0' and last['class'] == 'c1'  # c0 is what the wrong ones are called
  assert first['recall, student'] == '100.0 % ± 0.0' and first['recall, teacher'] == '100.0 %'
  assert first['precision, teacher'] == '83.3 % (predicted 60×)' and first['examples'] == '50'
  page = written(tmp_path, few, curves, [])[1]
  assert page.count('class="miss"') == 20 and page.count('class="hit"') == 5
  assert 'summed over 3 seeds' in page and 'Most confused classes' not in page and '<summary>' in page


def test_many_classes_are_folded_and_have_no_matrix(results, curves, tmp_path):
  many = classified(results, 30)
  page = flat(written(tmp_path, many, curves, [])[1])
  assert '10 more' in page and 'class="miss"' not in page
  pair = classes.confused(many)[0]
  assert pair == {'true class': 'c29', 'predicted': 'c0', 'examples': '87', 'share of the class': '58.0 %'}
  assert page.count('<th scope="row" role="rowheader"> c29 </th>') == 2


def test_calibration_is_drawn_against_confidence(results):
  figure = classes.calibration(classified(results, 5))
  diagonal, teacher, baseline, student = figure.axes[0].lines
  confidence = 100 * math.exp(4) / (math.exp(4) + 4)
  for line in (teacher, baseline, student):
    np.testing.assert_allclose(line.get_xydata(), [[confidence, 96.0]])
  assert diagonal.get_xydata().tolist() == [[0, 0], [100, 100]]
  assert 'ECE 0.028' in student.get_label()
  assert classes.calibration(results) is None


def test_the_terms_of_the_loss_are_named_in_words(curves):
  records = [{'step': s, 'loss/task': [1.0], 'loss/kd': [3.0, 2.0], 'loss/total': [4.0]} for s in (1, 2)]
  names = {'kd': 'Softened class scores: KL to the teacher'}
  labels = [line.get_label() for line in plots.losses(records, names).axes[0].lines]
  assert labels == ['task', 'kd: Softened class scores']
  assert plots.losses(curves['student'], {}) is None


def test_every_figure_says_its_split_and_its_command(results, curves, tmp_path):
  page = written(tmp_path, classified(results, 5), curves, [])[1]
  figures = re.findall(r'<figure.*?</figure>', page, re.DOTALL)
  assert len(figures) == 6
  assert all('<code>python run.py --config=a*b</code>' in figure for figure in figures)
  titles = [re.search(r'<h3>(.*?)</h3>', figure)[1] for figure in figures]
  assert [t for t in titles if not re.search(r'on (train|validation|test)\b', t)] == ['Latency']


def test_the_figures_follow_the_page_into_the_dark(results, curves, tmp_path):
  page = written(tmp_path, classified(results, 5), curves, [])[1]
  drawn = ''.join(re.findall(r'<svg.*?</svg>', page, re.DOTALL))
  fixed = set(re.findall(r'(?<!, )#[0-9a-f]{6}\b', drawn))
  assert not fixed & {'#000000', '#ffffff', '#010203', '#040506', *plots.COLOURS.values()}
  assert 'currentColor' in drawn and 'prefers-color-scheme: dark' in page


@pytest.mark.parametrize(
  ('values', 'cells'),
  [
    ([0.894, 12.3, None], ['0.89', '12.30', words.DASH]),
    ([1975.2, 12533.0], ['1,975', '12,533']),
    ([0.19, 0.0319, 0.0], ['0.190', '0.032', '0.000']),
    ([math.nan], [words.DASH]),
  ],
)
def test_a_column_has_one_number_of_decimals(values, cells):
  assert words.column(values) == cells


def test_scores_that_are_no_shares_have_one_number_of_decimals(results):
  results |= {'metric': 'mse', 'higher_is_better': False, 'references': {'mean': 12.0}}
  for name, values in (('teacher', [1.0]), ('baseline', [3.25, 3.5]), ('student', [2.0, 2.125])):
    results['stages'][name] |= stage(values, 10)
  assert [row['mse'] for row in rows(results)] == ['1.00', '3.38 ± 0.18', '2.06 ± 0.09', '12.00']


def test_a_text_is_not_wrong_that_is_none_of_the_references(results, curves, examples, tmp_path):
  several = [examples[0] | {'truth': ('a red square', 'a square in red')}]
  page = next(text for text in written(tmp_path, results, curves, several) if '<html' in text)
  assert 'a red square / a square in red' in page
  assert '✗ wrong' not in page and '✓ right' not in page
  page = next(text for text in written(tmp_path, results, curves, examples) if '<html' in text)
  assert '✗ wrong' in page and '✓ right' in page


def test_labels_that_add_little_say_nothing_of_a_teacher_that_adds_more(results):
  stages = results['stages'] | {'ceiling': dict(results['stages']['baseline'])}
  assert 'at this size and these steps.' in ' '.join(words.notes(results | {'stages': stages}))
  stages = stages | {'student': stages['baseline']}
  assert 'and so can a teacher' in ' '.join(words.notes(results | {'stages': stages}))
