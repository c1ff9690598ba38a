"""Graceful stopping: SIGTERM and Ctrl-C are polled, not raised."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

EVERY_S = 2.0  # between two questions of a pod's processes to each other


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


class StopChecks:
  """Whether to stop, after each dispatch of a training.

  On a pod an answer needs all processes, and pauses the devices. So they ask after as many dispatches as take
  two seconds: between a signal and the exit lie at most that, a dispatch and a checkpoint, however long one
  takes, and all processes stop after the same one.
  """

  def __init__(self, stopped: Callable[[], bool]):
    self.stopped, self.every, self.waited, self.since = stopped, 1, 0, time.monotonic()

  def __call__(self) -> bool:
    if jax.process_count() == 1:
      return self.stopped()
    self.waited += 1
    if self.waited < self.every:
      return False
    spent = max(time.monotonic() - self.since, 1e-6)
    proposed = np.array(min(max(1, int(self.waited * EVERY_S / spent)), 10 * self.waited), np.int32)
    stop = self.stopped()
    self.every = int(np.min(multihost_utils.process_allgather(proposed)))
    self.waited, self.since = 0, time.monotonic()
    return stop
