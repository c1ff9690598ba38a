"""A paper's table: what is run, by whom, what is shown, and what is never made up."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock

from kdjax.errors import KdjaxError
from kdjax.experiment import stages
from kdjax.paper_tables import MEASURES, Cell, Measure, Table, measures
from kdjax.paper_tables import index as pages
from kdjax.paper_tables import table as tables
from kdjax.paper_tables.results import results
from kdjax.paper_tables.run import run, sharded
from kdjax.paper_tables.units import units
from kdjax.recipes import model
from kdjax.report import tables as shown
from kdjax.runtime import signals
from kdjax.runtime.files import read_json


@pytest.fixture
def table(config):
  """Two columns that share a teacher, with two methods; one column is another width."""
  config.seeds = 2
  config.data.update(name='gaussians', path='')
  config.data.options = {'train': 60, 'test': 40}
  for stage, key, width in (('teacher', 'x1', 8), ('student', 'x2', 4)):
    config[stage].model, config[stage].inputs = model('mlp', hidden=(width,)), {'image': key}
  first = config.copy_and_resolve_references()
  config.student.model['hidden'] = (6,)
  second = config.copy_and_resolve_references()
  for result in (first, second):
    result.cohort = {'kd': {'methods': {'kd': {}}}, 'dkd': {'methods': {'dkd': {}}}}
  panel = {
    'teacher': {'one': Cell(('one',), 'teacher', published=97.5)},
    'alone': {c: Cell((c,), 'baseline', 'kd') for c in ('one', 'two')},
    'KD': {c: Cell((c,), member='kd', published=90.0) for c in ('one', 'two')},
    'DKD': {'one': Cell(('one',), member='dkd'), 'both': Cell(('one', 'two'), member='dkd')},
  }
  return Table(
    name='made',
    title='Made & up',
    paper='nobody',
    source='nowhere',
    experiments={'two': second, 'one': first},
    panels={'Accuracy': panel},
    measures={'top1': MEASURES['top1'], 'errors': MEASURES['errors']},
    teachers={'two': 'one'},
  )


def weights(folder):
  return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*.safetensors')}


def cells(result):
  return {(r, c): cell for (r, row) in result['panels']['Accuracy'].items() for c, cell in row.items()}


@pytest.mark.whole
def test_a_table_is_run_once_and_shown_beside_the_published_numbers(table, tmp_path, monkeypatch):
  result = run(table, tmp_path)
  every = cells(result)
  assert result['status'] == 'done' and all(c['status'] == 'done' for c in every.values())
  assert len(every['KD', 'one']['values']) == 2 and len(every['DKD', 'both']['values']) == 4
  assert every['DKD', 'both']['values'][:2] == every['DKD', 'one']['values']
  assert every['KD', 'one']['difference'] == pytest.approx(every['KD', 'one']['mean'] - 90)
  assert every['KD', 'two']['baseline'] == every['alone', 'two']['values']
  assert not (tmp_path / 'units' / 'two' / 'teacher').exists()  # it is lent
  assert read_json(tmp_path / 'made.json', dict, '') == json.loads(json.dumps(result))
  for suffix, words in (('md', '(90.00)'), ('html', '<svg'), ('tex', r'Made & up')):
    assert words in (tmp_path / f'made.{suffix}').read_text()
  monkeypatch.setattr(stages, 'run', lambda *_: pytest.fail('it is done'))
  assert run(table, tmp_path) | {'command': ''} == result


@pytest.mark.whole
def test_a_member_of_a_table_is_what_it_is_alone(table, config, experiment, tmp_path):
  """The column that borrows its teacher: another folder, another cohort, the same weights."""
  run(table, tmp_path, only='*KD,two')
  config.methods = {'dkd': {}}
  alone = experiment('alone')
  stages.run(alone, ('teacher', 'baseline', 'student'))
  mine, theirs = (
    weights(f) for f in (alone.folder('student'), tmp_path / 'units' / 'two' / 'dkd' / 'student')
  )
  assert theirs == {} and len(mine) == 2  # only KD has a cell in that column, DKD only in 'both'
  run(table, tmp_path)
  assert weights(tmp_path / 'units' / 'two' / 'dkd' / 'student') == mine


@pytest.mark.whole
def test_what_was_not_run_has_no_number(table, tmp_path):
  every = cells(run(table, tmp_path, only='KD,one'))
  assert every['KD', 'one']['status'] == 'done' and every['alone', 'one']['status'] == 'done'
  for where in (('KD', 'two'), ('DKD', 'both'), ('DKD', 'one'), ('teacher', 'one')):
    assert every[where]['status'] == 'not run' and 'mean' not in every[where]
  text = (tmp_path / 'made.md').read_text()
  assert 'not run (90.00)' in text and 'Status: 2 of 7 cells' in text


@pytest.mark.whole
def test_a_stopped_table_goes_on(table, tmp_path, monkeypatch):
  real, calls = stages.run, []

  def once(experiment, wanted):
    if calls:
      raise signals.Interrupted('stopped')
    calls.append(experiment)
    return real(experiment, wanted)

  monkeypatch.setattr(stages, 'run', once)
  with pytest.raises(signals.Interrupted):
    run(table, tmp_path)
  before = weights(tmp_path)
  monkeypatch.setattr(stages, 'run', real)
  assert run(table, tmp_path)['status'] == 'done'
  assert before.items() <= weights(tmp_path).items()


def test_a_unit_that_another_process_runs_is_left_to_it(table, tmp_path):
  (tmp_path / 'claims').mkdir()
  with FileLock(tmp_path / 'claims' / 'one.lock'):
    assert run(table, tmp_path, only='teacher,one')['status'] == 'not run'
  assert run(table, tmp_path, only='teacher,one')['status'] == '1 of 7 cells'


@pytest.mark.whole
def test_a_failed_unit_is_told_at_the_end(table, tmp_path, monkeypatch):
  real = stages.run

  def bad(experiment, wanted):
    if experiment.workdir.name == 'two':
      raise KdjaxError('no room')
    return real(experiment, wanted)

  monkeypatch.setattr(stages, 'run', bad)
  with pytest.raises(KdjaxError, match='two: no room'):
    run(table, tmp_path)
  every = cells(json.loads((tmp_path / 'made.json').read_text()))
  assert every['KD', 'one']['status'] == 'done' and every['KD', 'two']['status'] == 'not run'


@pytest.mark.whole
def test_a_diverged_member_hides_no_other(table, tmp_path):
  diverges = {'lr': 100.0, 'weight_decay': 1e6, 'clip': 0.0, 'name': 'sgd'}
  bad = {'student': {'train': {'optimiser': diverges}}, 'methods': {'kd': {}}}
  table.experiments['one'].cohort.dkd = bad
  every = cells(run(table, tmp_path, only='*,one'))
  assert every['DKD', 'one']['status'] == 'loss not finite' and 'mean' not in every['DKD', 'one']
  assert every['KD', 'one']['status'] == 'done'
  assert 'loss not finite' in (tmp_path / 'made.md').read_text()


def test_the_plan_runs_nothing(table, tmp_path, capsys):
  for scale, words in (('cpu', 'from steps measured here'), ('paper', 'CUDA_VISIBLE_DEVICES')):
    assert run(table, tmp_path, planned=True, scale=scale)['status'] == 'not run'
    assert words in capsys.readouterr().out.replace('\n', ' ')
  assert not (tmp_path / 'units').exists() and (tmp_path / 'steps.json').exists()


def test_a_plan_without_the_data_has_no_times(table, tmp_path, capsys):
  for config in table.experiments.values():
    config.data.update(name='manifest', path=str(tmp_path / 'nothing.jsonl'))
    config.data.options = {}
  run(table, tmp_path, planned=True, scale='paper')
  out = ' '.join(capsys.readouterr().out.split())
  assert '7 cells, 2 of 2 experiments to run. No estimate of the time: ' in out and 'nothing.jsonl' in out


def test_shards_cover_the_table_with_their_teachers(table, tmp_path):
  result = units(table, table.cells(), tmp_path)
  assert list(result) == ['one', 'two']  # the lender first
  assert sharded(result, '0/2') == ['one'] and sharded(result, '1/2') == ['one', 'two']
  for bad in ('2/2', 'x/2', '1'):
    with pytest.raises(KdjaxError, match='it is i/n'):
      sharded(result, bad)


def test_a_cell_that_nothing_serves_says_what_it_needs(table, tmp_path, capsys):
  panel = table.panels['Accuracy'] | {'Masks': {'one': Cell((), published=61.4, needs='learned masks')}}
  result = run(dataclasses.replace(table, panels={'Accuracy': panel}), tmp_path, only='teacher,one')
  assert '1 cell, 1 of 1 experiments' in ' '.join(capsys.readouterr().out.split())
  cell = cells(result)['Masks', 'one']
  assert cell['status'] == 'not run: needs learned masks' and 'mean' not in cell and 'difference' not in cell
  assert result['status'] == '1 of 8 cells'
  assert '| Masks | not run: needs learned masks (61.4' in (tmp_path / 'made.md').read_text()
  assert all('learned masks' in (tmp_path / f'made.{kind}').read_text() for kind in ('html', 'tex'))
  alone = dataclasses.replace(table, panels={'Accuracy': {'Masks': panel['Masks']}})
  assert run(alone, tmp_path / 'w', planned=True)['status'] == 'not run'
  assert 'none of these can be run' in capsys.readouterr().out
  run(dataclasses.replace(table, panels={'Accuracy': panel}), tmp_path, only='[tM]*,one', planned=True)
  assert 'every cell that can be run is done' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('cell', 'words'),
  [
    (Cell(()), 'names either experiments or, in needs, why it has none'),
    (Cell(('one',), 'teacher', needs='time'), 'names either experiments or'),
    (Cell(('three',)), "unknown experiment in the cell .*: 'three'"),
    (Cell(('one',), member='fitnet'), "unknown member of 'one' .*: 'fitnet'"),
    (Cell(('one',), member='kd', measure='f1'), "unknown measure .*: 'f1'"),
  ],
)
def test_a_cell_names_what_there_is(table, cell, words, tmp_path, monkeypatch):
  path = tmp_path / 'bad.py'
  path.write_text('def get_table(scale):\n  pass\n')
  bad = dataclasses.replace(table, panels={'p': {'r': {'c': cell}}})
  monkeypatch.setattr(tables.recipes, 'module', lambda _: SimpleNamespace(get_table=lambda scale: bad))
  with pytest.raises(KdjaxError, match=words):
    tables.load(str(path), 'cpu')


def test_mistakes_are_one_line(table, tmp_path):
  with pytest.raises(KdjaxError, match="unknown scale: 'huge'"):
    tables.load('configs/tables/mfh_gaussian.py', 'huge')
  with pytest.raises(KdjaxError, match="unknown table, neither a file here nor one of kdjax: 'nothing.py'"):
    tables.load('nothing.py', 'cpu')
  with pytest.raises(KdjaxError, match='matches no cell; rows: DKD, KD'):
    run(table, tmp_path, only='CRD')


@pytest.mark.whole
def test_nothing_is_measured_twice(table, tmp_path):
  """Another measure of the same models needs no training, and the others keep theirs."""
  run(table, tmp_path, only='KD,one')
  before = weights(tmp_path)
  kept = json.loads((tmp_path / 'units' / 'one' / 'values.json').read_text())['values']
  run(table, tmp_path, only='*KD,one')
  now = json.loads((tmp_path / 'units' / 'one' / 'values.json').read_text())['values']
  assert kept.items() <= now.items() and before.items() <= weights(tmp_path).items()


def test_errors_are_counted_with_a_bias():
  logits = np.array([[2.0, 1, 0], [0, 1, 2], [0.5, 1, 0], [0, 3, 2.5]])
  gathered = {'logits': logits, 'label': np.array([0, 2, 0, 2])}
  assert measures.wrong(gathered) == 2 and measures.wrong(gathered, among=2) == 1
  assert measures.error_rate(gathered) == 50
  bias = measures.best_bias(gathered, (1,))
  assert measures.wrong(gathered, bias) == 0 and bias[1] < -0.5
  assert measures.wrong(gathered) == 2  # the outputs are as they were
  assert measures.wrong(gathered | {'label': np.array([0, 2, -1, -1])}) == 0


def test_a_table_in_latex_is_escaped():
  cell = {'status': 'done', 'measure': 'm', 'mean': 1.5, 'std': 0.25, 'values': [1, 2], 'published': 2.0}
  result = {
    'title': 'T',
    'status': 'done',
    'command': 'c',
    'measures': {'m': {'unit': '%', 'digits': 1}},
    'panels': {'p': {'a_b & c': {'50 %': cell}}},
  }
  assert r'a\_b \& c & 1.5 $\pm$ 0.2 (2.0) \\' in shown.latex(result)
  assert r' & 50 \% \\' in shown.latex(result)


def test_p_is_corrected_over_the_table(table, tmp_path):
  """Many cells tested at once find something by chance."""
  result = units(table, table.cells(), tmp_path)
  rng = np.random.default_rng(0)
  for unit in result.values():
    unit.experiment.workdir.mkdir(parents=True)
    values = {
      'teacher': {'top1': [99.0]},
      **{f'{m}/baseline': {'top1': rng.normal(50, 1, 3).tolist()} for m in ('kd', 'dkd')},
      **{f'{m}/student': {'top1': rng.normal(53, 1, 3).tolist()} for m in ('kd', 'dkd')},
    }
    (unit.experiment.workdir / 'values.json').write_text(
      json.dumps({'values': values, 'hardware': 'h', 'wall_time_s': 1.0})
    )
  tested = [c for c in cells(results(table, result)).values() if 'p_value' in c]
  assert len(tested) == 4 and all(c['p_adjusted'] >= c['p_value'] for c in tested)
  assert isinstance(Measure(lambda m, g: 0.0), Measure)


@pytest.mark.whole
def test_the_page_of_all_tables_tells_what_was_run(table, tmp_path, monkeypatch):
  configs, folder = tmp_path / 'configs', tmp_path / 'docs'
  configs.mkdir()
  for name in ('made', 'other'):
    (configs / f'{name}.py').write_text('def get_table(scale):\n  pass\n')
  (configs / 'parts.py').write_text('')
  named = {n: dataclasses.replace(table, name=n, title=n) for n in ('made', 'other')}
  monkeypatch.setattr(pages, 'load', lambda path, scale: named[Path(path).stem])
  run(named['made'], folder, only='KD,one')
  result = {one['name']: one['standing'] for one in pages.index(configs, folder)}
  assert result == {'made': 'partly: 2 of 7 cells', 'other': 'recipe only'}
  text = (folder / 'README.md').read_text()
  assert '[made](made.md)' in text and '| other | recipe only | 0 of 7 |' in text
  assert '<svg' in (folder / 'index.html').read_text()
  with pytest.raises(KdjaxError, match='holds no table'):
    pages.index(folder, folder)


def test_a_runner_takes_the_place_of_the_stages_after_the_teacher(table, tmp_path):
  ran = []

  def runner(name, experiment):
    ran.append((name, experiment.done('teacher'), experiment.done('student')))
    values = {'small': [90.0, 91.0], 'baseline': [80.0, 83.0]}
    return {'pruned/student': {'top1': values['small']}, 'pruned/baseline': {'top1': values['baseline']}}

  panel = {'pruned': {c: Cell((c,), member='pruned', published=90.0) for c in ('one', 'two')}}
  made = dataclasses.replace(table, panels={'Pruned': panel}, runner=runner)
  cells = run(made, tmp_path)['panels']['Pruned']['pruned']
  assert ran == [('one', True, False), ('two', True, False)]
  assert cells['one']['mean'] == 90.5 and cells['two']['to_baseline'] == pytest.approx(9.0)
  assert run(made, tmp_path)['status'] == 'done' and len(ran) == 2
  assert not list(tmp_path.rglob('student'))
