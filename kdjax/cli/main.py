"""Finds the command among the arguments and runs it; whatever goes wrong is one line."""

import os
import shlex
import sys
from collections.abc import Callable, Sequence

from absl import app

from kdjax.cli import commands, flags
from kdjax.cli.help_text import COMMANDS, LISTS, STAGES
from kdjax.errors import KdjaxError, printable, unknown
from kdjax.runtime.program import program

STORE = ('build', 'verify', 'info')
MOST = {
  'all': 0,
  'evaluate': 0,
  'config': 0,
  'data': 0,
  'taps': 0,
  'plan': 0,
  'predict': 1,
  'export': 0,
  'ship': 0,
  'table': 1,
  'tables': 1,
}  # arguments after it


def run() -> None:
  """Runs the command of `sys.argv`, and exits."""
  command = shlex.join(['kdjax', *sys.argv[1:]] if program() == 'kdjax' else ['python', *sys.argv])
  one_line(
    lambda: app.run(lambda argv: sys.exit(one_line(lambda: main(argv, command))), flags_parser=flags.parse)
  )


def main(argv: Sequence[str], command: str) -> int | None:
  """Runs what the arguments say; returns the exit status.

  Args:
    argv: without the flags, the first is the program's.
    command: the whole, to run it again.
  """
  name, *more = argv[1:] or ['all']
  if name not in COMMANDS:
    raise unknown('command', name, COMMANDS)
  if name in STAGES and not {*more} <= {*STAGES} or len(more) > MOST.get(name, len(more)):
    takes = 'one argument' if MOST.get(name) else 'one command, or several stages'
    asked = ' '.join([name, *more])
    raise KdjaxError(f'what to do with {asked!r}? It takes {takes}; see `{program()} {name} --help`.')
  if name in LISTS:
    return commands.show(LISTS[name], more)
  if name == 'config':
    return commands.explained()
  if name == 'data':
    return commands.data()
  if name == 'taps':
    return commands.taps(command)
  if name == 'plan':
    return commands.plan(command)
  if name == 'predict':
    from kdjax.cli import predict

    return predict.predict(more[0] if more else '')
  if name in ('export', 'ship'):
    from kdjax.cli import export

    return getattr(export, name)(command)
  if name == 'table':
    return commands.table(more[0] if more else '', command)
  if name == 'tables':
    return commands.index(more[0] if more else 'docs/tables')
  if name == 'evaluate':
    return commands.evaluate(command)
  if name == 'store':
    if more not in [[what] for what in STORE]:
      raise unknown('thing to do with the store', ' '.join(more), STORE)
    return commands.store(more[0], command)
  return commands.train(STAGES if name == 'all' else (name, *more), command)


def one_line(call: Callable):
  """Runs `call`; a KdjaxError or OSError becomes one line and exit status 1, on a pod of all processes."""
  try:
    return call()
  except KdjaxError as e:
    commands.leave_pod(e)
    sys.exit(f'error: {e}')
  except OSError as e:
    commands.leave_pod(e)
    if e.filename is None:  # it may be the output itself, which Python would write to once more
      os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    where = e.filename or 'writing'
    sys.exit(printable(f'error: {e.strerror or e} ({where}); nothing that was saved is lost.'))
  except Exception as e:
    commands.leave_pod(e)
    raise
