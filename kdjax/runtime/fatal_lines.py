"""What the C++ of JAX prints when it ends a process of a pod, as one line.

JAX's coordination service ends a process by abort(), with a stack trace, when another one has died or never
came; that is no exception, and a callback in Python cannot take its place. So the error output of a pod's
process goes through a second, small process, which puts one line in the place of that trace and lets
everything else through.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

FATAL = b'JAX distributed service detected fatal errors'
# Its lines, and what follows them: the number of a process, the call that failed, the trace.
SERVICE = re.compile(
  rb'[EFW]\d{4} [\d:.]+ +\d+ ((coordination_service|add_port)\w*\.cc|.*' + FATAL + rb')'
  rb'|\d*\s*$|The tasks? ha(s|ve) crashed|Additional GRPC error|:UNKNOWN:|RPC: /'
  rb'|\*\*\* Check failure stack trace|\s+@ +0x'
)
# What Python's faulthandler adds.
FAULT = re.compile(
  rb'Fatal Python error: |(Current t|T)hread 0x|  File "|  <no Python frame>|  \.\.\.|Extension modules:'
)
BEGUN = re.compile(rb'[EFW]\d{4} ')
JOIN = b'RegisterTask'  # the call by which a process joins


class Lines(NamedTuple):
  """The line for each of the two ends.

  Attributes:
    joining: where not all processes came.
    running: where another one has ended.
  """

  joining: str
  running: str


def filtered(output: Iterable[bytes], lines: Lines) -> Iterator[bytes]:
  """The lines of an error output, without those of the coordination service; one of `lines` for them."""
  begun, fatal, joining = False, False, False
  for line in output:
    if SERVICE.match(line) and (begun or BEGUN.match(line)) or fatal and FAULT.match(line):
      begun, fatal, joining = True, fatal or FATAL in line, joining or JOIN in line
    else:
      begun = False
      yield line
  if fatal:
    yield f'error: {lines.joining if joining else lines.running}\n'.encode()


def install(lines: Lines) -> Callable[[], None]:
  """Sends the error output of this process, also that of C++, through `filtered`; returns what ends that."""
  sys.stderr.flush()
  real, (reader, writer) = os.dup(2), os.pipe()
  # A session of its own: Ctrl-C is not for it. It ends with the last process that writes to it.
  command = [sys.executable, '-S', '-E', __file__, *lines]
  process = subprocess.Popen(command, stdin=reader, stdout=real, start_new_session=True)
  os.dup2(writer, 2)
  os.close(reader)
  os.close(writer)

  def restore() -> None:
    """Waits until everything is printed."""
    sys.stderr.flush()
    os.dup2(real, 2)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a child of this process still writes to it
      process.wait(timeout=5)

  return restore


def _main() -> None:
  import signal

  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  for line in filtered(iter(sys.stdin.buffer.readline, b''), Lines(*sys.argv[1:])):
    os.write(1, line)


if __name__ == '__main__':
  _main()
