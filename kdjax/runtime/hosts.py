"""The processes of a pod live and die together, and agree on what they do.

They talk through the key-value store of JAX's coordination service: it needs no device, and its waits end.
"""

import atexit
import contextlib
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from kdjax.errors import KdjaxError, differences, printable

FAILED = 'kdjax/failed'  # the key of the first failure, which ends every process
ASK_S = 2.0  # between two looks for it
REASON_S = 3.0  # how long another process's own words are waited for
SHARED_S = 10.0  # how long a network file system may take to show a new file
ENDED = (
  'another process of the pod has ended or cannot be reached: see what it printed, then start all of them '
  'again, which goes on from the last checkpoint.'
)
# Of messages of JAX and Orbax, where another process is gone.
DIED = re.compile(
  'Gloo|NCCL|onnection (closed|reset)|Socket closed|heartbeat|unhealthy|arrier (timed out|failed)'
)
_rounds = itertools.count()  # the same in all processes: they call `agree` and `check_shared` in one order
_joined: dict[str, Any] = {}  # what `live_together` was given


class Everywhere(KdjaxError):
  """An error that all processes of a pod have."""


def _service() -> Any:
  """JAX's coordination service; its client is None for a process on its own."""
  from jax._src import distributed  # has no public name; Orbax takes it from there too

  return distributed.global_state


def _alone() -> bool:
  return _service().client is None or _service().num_processes == 1


def _name() -> str:
  """'process 3 on host-b'."""
  return f'process {_service().process_id} on {socket.gethostname()}'


def live_together(wait_s: float, restore: Callable[[], None]) -> None:
  """Ends this process, with one line, as soon as another one says that it failed.

  Args:
    wait_s: how long `agree` waits for the others.
    restore: sends the error output straight to where it belongs, before the last line.
  """
  _joined.update(wait_s=wait_s, restore=restore)
  exiting = threading.Event()
  thread = threading.Thread(target=_watch, args=(exiting,), daemon=True)
  thread.start()

  def end() -> None:  # before Python ends, which a thread in C++ would not survive
    exiting.set()
    thread.join()

  atexit.register(end)


def _watch(exiting: threading.Event) -> None:
  while not exiting.wait(ASK_S):
    try:
      reason = _service().client.key_value_try_get(FAILED)
    except jax.errors.JaxRuntimeError:  # nothing has failed
      continue
    if not reason.startswith(f'{_name()}: '):
      _leave(reason)


def _leave(reason: str) -> None:
  """Prints a line and ends the process, which would wait for the others at its exit."""
  sys.stdout.flush()
  _joined['restore']()
  os.write(2, f'error: {printable(reason)}\n'.encode(errors='replace'))
  os._exit(1)


def failed(error: BaseException) -> None:
  """On a pod prints one line, tells the other processes, and ends this one; else does nothing."""
  if not _joined:
    return
  if (death := _death(error)) is not None:
    time.sleep(REASON_S)  # if it said why, `_watch` ends this process
    _leave(f'{ENDED} It shows as: {str(death).splitlines()[0][:200]}')
  text = str(error) if isinstance(error, (KdjaxError, OSError)) else f'{type(error).__name__}: {error}'
  if not isinstance(error, Everywhere):
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one was first
      _service().client.key_value_set(FAILED, f'{_name()}: {text}'[:4000])
  if _service().process_id == 0:
    time.sleep(ASK_S + 1)  # the coordination service ends with it, and would end the others before they look
  _leave(text)


def _death(error: BaseException | None) -> BaseException | None:
  """The error of JAX, or of Orbax, that says that another process has died, among the causes of `error`."""
  while error is not None:
    if isinstance(error, (RuntimeError, ValueError)) and DIED.search(str(error)):
      return error
    error = error.__cause__ or error.__context__
  return None


def agree(values: Mapping[str, Any], advice: str) -> None:
  """Compares `values`, plain JSON, over all processes.

  Args:
    values: what has to be equal -> its value.
    advice: what to do where it is not.

  Raises:
    KdjaxError: on every process, where one has another value or does not answer in time.
  """
  if _alone():
    return
  first, *others = _said({'by': _name(), 'values': dict(values)})
  problem = ''
  for other in others:
    mine, theirs = first['values'], other['values']
    if what := differences(theirs, mine, mine.keys() | theirs.keys()):
      problem = f'{other["by"]} ("there") and {first["by"]} ("here") differ: {what}. {advice}'
      break
  _verdict(problem)


def check_shared(folder: Path) -> None:
  """Checks that all processes see the same folder.

  Raises:
    KdjaxError: on every process, where one does not.
  """
  if _alone():
    return
  first = _service().process_id == 0
  key = f'kdjax/folder/{next(_rounds)}'
  mark = folder / f'.shared.{os.getpid()}'
  if first:
    mark.touch()
    _service().client.key_value_set(key, mark.name)
  else:
    mark = folder / _get(key, 'process 0')
  until = time.monotonic() + SHARED_S
  while not mark.exists() and time.monotonic() < until:
    time.sleep(0.1)
  missing = [one['by'] for one in _said({'by': _name(), 'sees': mark.exists()}) if not one['sees']]
  if first:
    mark.unlink(missing_ok=True)
  _verdict(
    f'{missing[0]} does not see {folder} of process 0: --workdir has to be a folder that all hosts share, '
    'such as one of NFS, Lustre or Filestore.'
    if missing
    else ''
  )


def _get(key: str, whose: str) -> str:
  try:
    return _service().client.blocking_key_value_get(key, int(1000 * _joined.get('wait_s', 300)))
  except jax.errors.JaxRuntimeError as e:
    raise KdjaxError(f'{whose} of the pod does not answer ({str(e).splitlines()[0][:100]}).') from e


def _said(mine: Mapping[str, Any]) -> list[dict]:
  """What each process says, for process 0; what this one says for any other."""
  service, key = _service(), f'kdjax/said/{next(_rounds)}'
  service.client.key_value_set(f'{key}/{service.process_id}', json.dumps(mine, default=str))
  processes = range(service.num_processes) if service.process_id == 0 else [service.process_id]
  return [json.loads(_get(f'{key}/{i}', f'process {i}')) for i in processes]


def _verdict(problem: str) -> None:
  """Raises KdjaxError on all processes where process 0 has found a problem."""
  key = f'kdjax/verdict/{next(_rounds)}'
  if _service().process_id == 0:
    _service().client.key_value_set(key, problem)
  if problem := _get(key, 'process 0'):
    raise Everywhere(problem)
