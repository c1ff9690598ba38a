"""Ctrl-C and SIGTERM before a run handles them: one line and exit, whatever is being imported."""

import contextlib
import os
import signal
import sys


def install() -> None:
  """Ends the program at the first signal, until `kdjax.runtime.signals.listening` takes over.

  An exception could land in a callback or an import that swallows it; and there is nothing to save yet.
  """
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, _exit_at_once)


def _exit_at_once(number, frame):
  with contextlib.suppress(Exception):
    sys.stdout.flush()
    if sys.stdout.isatty():
      os.write(1, b'\x1b[?25h\n')  # a progress bar hides the cursor
  with contextlib.suppress(OSError):
    os.write(2, b'stopped; run the same command to go on.\n')
  os._exit(128 + number)
