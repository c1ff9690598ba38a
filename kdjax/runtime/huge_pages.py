"""Huge pages for XLA:CPU, which allocates the memory of a step anew at every step."""

import builtins
import os
import signal
import sys

HELD = (signal.SIGINT, signal.SIGTERM)  # while one program ends and the next has no handlers yet


def restart_with_huge_pages() -> None:
  """Restarts this command with huge pages, unless GLIBC_TUNABLES is set already.

  Page faults of 4 KiB take up to a third of a step on CPU, those of 2 MiB next to nothing. glibc (2.35 and
  later; others ignore it) reads the setting from the environment when a program starts. In a debugger, in
  IPython, and where the program comes from the standard input, nothing is done.
  """
  if hasattr(signal, 'pthread_sigmask'):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
  unavailable = sys.platform != 'linux' or 'GLIBC_TUNABLES' in os.environ
  embedded = sys.gettrace() or hasattr(builtins, '__IPYTHON__') or sys.argv[0] in ('', '-')
  if sys.executable and not unavailable and not embedded:
    os.environ['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
