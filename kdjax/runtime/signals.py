"""Graceful stopping: SIGTERM and Ctrl-C are polled, not raised."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils


class Interrupted(Exception):
  """A signal stopped the run; everything is saved."""


@contextmanager
def listening() -> Iterator[Callable[[], bool]]:
  """`stopped()`: whether SIGTERM or Ctrl-C came, on any process of the pod. A second one exits at once."""
  received, handlers = [], {}

  def record(number, frame):
    if received:
      raise SystemExit(128 + number)
    received.append(number)

  def stopped():
    if jax.process_count() == 1:
      return bool(received)
    return bool(np.any(multihost_utils.process_allgather(np.array(bool(received)))))

  try:
    for number in (signal.SIGTERM, signal.SIGINT):
      handlers[number] = signal.signal(number, record)
  except ValueError:  # not the main thread, as in some notebooks
    pass
  try:
    yield stopped
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
