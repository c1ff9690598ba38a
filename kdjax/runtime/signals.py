"""Stopping in good order: SIGTERM and Ctrl-C are asked for, not thrown."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils


class Interrupted(Exception):
  """A signal asked to stop; everything is saved."""


@contextmanager
def listening() -> Iterator[Callable[[], bool]]:
  """`stopped()`: whether SIGTERM or Ctrl-C came, on any process of the pod. A second one ends at once."""
  seen, old = [], {}

  def note(number, frame):
    if seen:
      raise SystemExit(128 + number)
    seen.append(number)

  def stopped():
    if jax.process_count() == 1:
      return bool(seen)
    return bool(np.any(multihost_utils.process_allgather(np.array(bool(seen)))))

  try:
    for which in (signal.SIGTERM, signal.SIGINT):
      old[which] = signal.signal(which, note)
  except ValueError:  # not the main thread, as in some notebooks
    pass
  try:
    yield stopped
  finally:
    for which, handler in old.items():
      signal.signal(which, handler)
