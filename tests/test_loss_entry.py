"""An entry of `methods`: its own keys apart from the options of its method, and the names it may have."""

import sys
import types

import jax
import pytest

import taps
from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.experiment import build, loss_entry
from kdjax.runtime import trust
from kdjax.types import Method

KEY = jax.random.key(0)


def values(config, step):
  """Name -> mean of each term at a step of 100."""
  s, t, batch = taps.example()
  method = build.method(config, 100)
  params, stats = method.init(KEY, s, t, batch)
  terms, _ = method.loss(params, stats, s, t, batch, step=step, rng=KEY)
  return {name: float(total / count) for name, (total, count) in terms.items()}


def test_no_option_of_a_method_is_called_as_a_key_of_its_entry():
  for name in registry.names('methods'):
    assert not set(loss_entry.KEYS) & registry.options('methods', name).keys(), name


def test_start_is_the_window_of_the_loss_and_never_an_option():
  plain = values({'ctkd': {}}, 60)['ctkd']
  assert values({'ctkd': {'start': 0.5}}, 40)['ctkd'] == 0
  assert values({'ctkd': {'start': 0.5}}, 60)['ctkd'] == pytest.approx(plain)
  higher = values({'ctkd': {'start': 0.5, 'minimum': 3.0}}, 60)['ctkd']
  assert higher != pytest.approx(plain)
  assert values({'ctkd': {'start': 0.5, 'options': {'start': 3.0}}}, 60)['ctkd'] == pytest.approx(higher)
  easy = {'order': 'easy', 'steps': 10_000}
  some, few = (values({'difficulty': easy | {'options': {'start': x}}}, 0)['difficulty'] for x in (1.0, 0.6))
  assert some > few
  assert values({'difficulty': easy | {'initial_pace': 0.6}}, 0)['difficulty'] == pytest.approx(few)


def test_options_may_lie_in_a_dict_of_their_own():
  flat = values({'kd': {'weight': 2.0, 'temperature': 3.0}}, 0)
  assert values({'kd': {'weight': 2.0, 'options': {'temperature': 3.0}}}, 0) == flat
  with pytest.raises(KdjaxError, match="methods.kd sets 'temperature' twice"):
    build.method({'kd': {'temperature': 1.0, 'options': {'temperature': 3.0}}}, 6)
  with pytest.raises(KdjaxError, match='methods.kd.options is 3; it is a dict'):
    build.method({'kd': {'options': 3}}, 6)
  with pytest.raises(KdjaxError, match="option of the method 'kd': 'temprature'"):
    build.method({'kd': {'options': {'temprature': 3.0}}}, 6)


def test_a_key_that_could_be_either_is_refused(monkeypatch):
  inputs = []

  def late(*, start: float = 0.0, weight: float = 1.0) -> Method:
    inputs.append((start, weight))
    return Method(lambda *_: ({}, {}), None)

  module = types.ModuleType('their_project.late')
  module.late, module.WEIGHT, late.__module__ = late, 1.0, module.__name__
  monkeypatch.setattr(trust, 'TRUSTED', {'their_project.late'})
  monkeypatch.setitem(sys.modules, 'their_project', types.ModuleType('their_project'))
  monkeypatch.setitem(sys.modules, 'their_project.late', module)
  mine = {'method': 'their_project.late'}
  with pytest.raises(KdjaxError, match='methods.mine.start could be the start of the loss or the option'):
    build.method({'mine': mine | {'start': 0.5}}, 6)
  build.method({'mine': mine | {'start': 0.5, 'options': {'start': 7.0}}}, 6)
  build.method({'mine': mine | {'start': 0.5, 'options': {}}}, 6)
  assert inputs == [(7.0, 1.0), (0.0, 1.0)]


@pytest.mark.parametrize('name', ['task', 'grad_norm', 'total', 'generator/l1'])
def test_the_names_of_other_terms_are_reserved(name):
  with pytest.raises(KdjaxError, match=f'methods.{name} is called as another term') as caught:
    build.method({name: {'method': 'kd'}}, 6)
  assert '\n' not in str(caught.value)
