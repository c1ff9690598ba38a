"""When the processes of a pod ask each other whether to stop."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from kdjax.runtime import signals


def asked(monkeypatch, step_s, dispatches, others=None):
  """After which dispatches a pod of two asks, where a step takes `step_s` here and `others` there."""
  clock, asks = [0.0], []

  def allgather(proposed):
    here = int(proposed)
    there = here if others is None else max(1, int(here * step_s / others))
    return np.array([here, there])

  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(signals.time, 'monotonic', lambda: clock[0])
  monkeypatch.setattr(multihost_utils, 'process_allgather', allgather)
  check = signals.StopChecks(lambda: asks.append(n) or False)
  for n in range(1, dispatches + 1):  # noqa: B007 - read by the lambda
    clock[0] += step_s
    assert not check()
  return asks


def test_slow_steps_are_followed_by_a_question_each(monkeypatch):
  assert asked(monkeypatch, 5.0, 20) == list(range(1, 21))
  assert asked(monkeypatch, 1.0, 9) == [1, 3, 5, 7, 9]


def test_fast_steps_are_not_held_up(monkeypatch):
  asks = asked(monkeypatch, 0.001, 10_000)
  assert len(asks) < 12
  assert np.diff(asks).max() * 0.001 == pytest.approx(signals.EVERY_S, rel=0.01)


def test_the_slowest_process_decides(monkeypatch):
  asks = asked(monkeypatch, 0.1, 60, others=1.0)
  assert np.diff(asks).max() <= 2


def test_a_process_on_its_own_asks_after_every_step():
  told = iter([False, True])
  check = signals.StopChecks(lambda: next(told))
  assert (check(), check()) == (False, True)
