"""The ladder of a student from float to a few bits."""

import sys

import pytest

from kdjax.errors import KdjaxError
from kdjax.export import ship
from kdjax.report import frontier

PACKAGES = ('onnx', 'onnxruntime')


def row(name, values, size, ms, training='none'):
  scores = {'values': values, 'validation': values, 'mean': sum(values) / len(values), 'std': 0.1}
  costs = {'bytes': size, 'latency_ms_one_thread': ms, 'latency_ms': ms}
  return {'name': name, 'training': training, **scores, **costs}


@pytest.fixture
def rows():
  return [
    row('float', [0.90, 0.92, 0.91], 1000, 1.0),
    row('int8', [0.90, 0.91, 0.91], 300, 0.5),
    row('int4', [0.70, 0.71, 0.72], 150, 0.6),
    row('int4-distilled', [0.905, 0.92, 0.915], 150, 0.6, 'distilled'),
  ]


def test_the_smallest_that_keeps_its_score_is_chosen(trained, rows):
  shipped = ship.chosen(trained, rows, tolerance=0.01, max_bytes=0, max_ms=0)
  assert shipped['chosen'] == 'int4-distilled'
  assert [r['keeps'] for r in shipped['rows']] == [True, True, False, True]
  assert [r['on_size_front'] for r in shipped['rows']] == [False, False, False, True]
  assert [r['on_latency_front'] for r in shipped['rows']] == [False, True, False, True]
  cells = frontier.rows(shipped)
  assert cells[3]['chosen'] == 'yes' and cells[3]['smaller'] == '6.7x' and cells[0]['less float'] == ''
  assert '6.7 times smaller' in frontier.verdict(shipped)


def test_limits_are_kept(trained, rows):
  assert ship.chosen(trained, rows, 0.01, max_bytes=0, max_ms=0.55)['chosen'] == 'int8'
  nothing = ship.chosen(trained, rows, 0.01, max_bytes=100, max_ms=0)
  assert nothing['chosen'] == '' and 'No form within 100 bytes keeps the score' in frontier.verdict(nothing)


@pytest.mark.whole
def test_the_whole_ladder(trained, config, experiment):
  for package in PACKAGES:
    pytest.importorskip(package)
  shipped = ship.ship(trained, 'onnx', steps=2, tolerance=1.0)
  names = [r['name'] for r in shipped['rows']]
  further = [f'{form}-{how}' for form in ('float', 'int8', 'int4') for how in ('labels', 'distilled')]
  assert names == ['float', 'int8', 'int4', *further] and shipped['chosen'] in names
  for one in shipped['rows']:
    assert (trained.workdir / one['export'] / 'export.json').exists()
  page = (trained.workdir / 'ship' / 'ship.html').read_text()
  assert page.count('<svg') == 2 and 'float-distilled' in page


def test_mistakes_are_one_line(trained, config, experiment):
  with pytest.raises(KdjaxError, match='stablehlo has no quantised form'):
    ship.ship(trained, 'stablehlo')
  for name, number in (('steps', -5), ('tolerance', float('nan')), ('max_bytes', -1), ('max_ms', -1)):
    with pytest.raises(KdjaxError, match=f'{name} is .*: it has to be 0 or more'):
      ship.ship(trained, 'onnx', **{name: number})
  with pytest.raises(KdjaxError, match='holds no finished student: run the student first'):
    ship.ship(experiment(), 'onnx')


def test_a_missing_package_is_said_before_anything_is_trained(trained, monkeypatch):
  monkeypatch.setitem(sys.modules, 'onnx', None)
  with pytest.raises(KdjaxError, match='ONNX needs the package onnx'):
    ship.ship(trained, 'onnx', steps=3)
  assert not list(trained.workdir.glob('ship/*_3'))
