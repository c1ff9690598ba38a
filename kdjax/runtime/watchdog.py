"""A stack of every thread where nothing has moved for long; on a pod that process then ends."""

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Iterator

GRACE_S = 15.0  # until a process ends, so that the others, which stand still too, print where
_state = {'moved': 0.0, 'paused': 0}


def moved() -> None:
  """Says that work goes on; every progress bar does."""
  _state['moved'] = time.monotonic()


@contextlib.contextmanager
def paused() -> Iterator[None]:
  """Nothing is expected to move here, such as while a program is compiled."""
  _state['paused'] += 1
  try:
    yield
  finally:
    _state['paused'] -= 1
    moved()


@contextlib.contextmanager
def watching(seconds: float, ends: bool) -> Iterator[None]:
  """Watches what is done here.

  Args:
    seconds: without a move, after which the stacks are written to the error output; 0 for none.
    ends: whether the process then exits with status 1, so that the others of a pod end too and all are
      started again; else it is said once, and waited on.
  """
  if not seconds:
    yield
    return
  over = threading.Event()
  moved()
  thread = threading.Thread(target=_watch, args=(seconds, ends, over), name='kdjax watchdog', daemon=True)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


def _watch(seconds, ends, over):
  while not over.wait(min(seconds / 4, 5.0)):
    if _state['paused'] or time.monotonic() - _state['moved'] < seconds:
      continue
    faulthandler.dump_traceback(file=2, all_threads=True)
    what = 'the process ends, and the others with it' if ends else 'the process waits on'
    os.write(2, f'error: nothing has moved for {seconds:g} s (run.stall): {what}.\n'.encode())
    if ends:
      time.sleep(min(seconds, GRACE_S))
      os._exit(1)
    return
