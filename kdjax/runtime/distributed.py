"""The processes of one run: how they find each other, and a lock that they share."""

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from filelock import FileLock, Timeout
from jax.experimental import multihost_utils

from kdjax.errors import KdjaxError
from kdjax.runtime import fatal_lines, hosts, launchers, progress

ADDRESS = re.compile(r'(?:\[([0-9a-fA-F:.%]+)\]|([^:\[\]/\s]+)):(\d{1,5})')
HEARTBEAT_S = 60  # after which a silent process counts as dead; JAX's C++ sends them, whatever Python does
LAST_S = 24 * 3600  # how long a process that is done waits for those that are not
TELL_S = 5.0  # of waiting, after which a line says for what


def distributed_init(
  coordinator: str | None = None,
  processes: int | None = None,
  process: int | None = None,
  wait_s: float = 300.0,
  heartbeat_s: int = HEARTBEAT_S,
) -> None:
  """Joins the other processes of a pod; only the first prints from then on.

  Under a launcher that is recognised no argument is needed, or `coordinator` alone.

  Args:
    coordinator: 'host:port' of the first process.
    processes: how many there are.
    process: which of them this is, from 0.
    wait_s: how long they are waited for.
    heartbeat_s: after how long a process that died or hangs is noticed.

  Raises:
    KdjaxError: if the arguments are not whole, the others cannot be reached, or a port is in use.
  """
  launch = _launch(coordinator, processes, process)
  if launch is None or launch.processes == 1:
    return
  began = time.monotonic()
  cut_off = (
    f'not all processes of the pod have come after {wait_s:.0f} s (--join_timeout): start all of them, each '
    'with a number of its own, and see that their hosts reach each other.'
  )
  restore = fatal_lines.install(fatal_lines.Lines(cut_off, hosts.ENDED))
  try:
    if launch.processes is not None:
      host, port = parse_address(launch.coordinator)
      if launch.process:
        wait_for(host, port, wait_s)
      else:
        check_free(port)
    left = max(5, int(wait_s - (time.monotonic() - began)))
    _initialize(launch, left, heartbeat_s)
  except KdjaxError:
    restore()
    raise
  hosts.live_together(wait_s, restore)
  if jax.process_index():
    progress.silence()
  devices = progress.counted(jax.device_count(), 'device')
  progress.say(f'pod: {jax.process_count()} processes by {launch.launcher}, {devices}')
  hosts.agree(
    {'devices of a process': jax.local_device_count(), 'jax': jax.__version__},
    'Give every process the same number of devices and the same environment.',
  )


def _launch(coordinator, processes, process) -> launchers.Launch | None:
  """The launch that the flags say, else the launcher's."""
  if processes is not None and process is not None:
    if coordinator is None:
      raise KdjaxError('give --coordinator, --num_processes and --process_id, or none of them.')
    if not 0 <= process < processes:
      raise KdjaxError(
        f'--process_id={process}: it is from 0 to {processes - 1}, with --num_processes={processes}.'
      )
    return launchers.Launch('the flags', processes, process, coordinator)
  if processes is not None or process is not None:
    raise KdjaxError('give --coordinator, --num_processes and --process_id, or none of them.')
  launch = launchers.find(os.environ)
  if coordinator is None:
    if launch and (launch.processes or 1) > 1 and not launch.coordinator:
      raise KdjaxError(
        f'{launch.launcher} started {launch.processes} processes, and does not say where the first one is: '
        'give --coordinator=HOST:PORT, its host and a free port, to all of them.'
      )
    return launch
  parse_address(coordinator)
  if launch is None or launch.processes is None:
    raise KdjaxError(
      '--coordinator alone is for a launcher that says how many processes there are, and none is recognised: '
      'give --num_processes and --process_id too.'
    )
  return launch._replace(coordinator=coordinator)


def parse_address(address: str) -> tuple[str, int]:
  """('host', port) of 'host:port', with an address of IPv6 in brackets.

  Raises:
    KdjaxError: for anything else.
  """
  match = ADDRESS.fullmatch(address)
  if not match or not 0 < int(match[3]) < 65536:
    raise KdjaxError(f'--coordinator={address}: it is HOST:PORT of process 0, such as node001:9876.')
  return match[1] or match[2], int(match[3])


def check_free(port: int) -> None:
  """Raises KdjaxError where the port of process 0 is in use, which JAX's C++ would not survive."""
  try:
    probe = socket.socket(socket.AF_INET6)
  except OSError:  # a host with no IPv6
    probe = socket.socket(socket.AF_INET)
  with probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind(('', port))
    except OSError as e:
      raise KdjaxError(
        f'process 0 cannot listen on port {port} of {socket.gethostname()} ({e.strerror}): choose another '
        'port in --coordinator, or end what uses it.'
      ) from e


def wait_for(host: str, port: int, wait_s: float) -> None:
  """Waits until somebody listens at the address of process 0.

  Raises:
    KdjaxError: if nobody does after `wait_s` seconds.
  """
  until, problem, told = time.monotonic() + wait_s, '', False
  while True:
    try:
      with socket.create_connection((host, port), timeout=max(0.1, min(5.0, until - time.monotonic()))):
        return
    except socket.gaierror:
      problem = f'there is no host {host!r}'
    except OSError as e:
      problem = f'nobody answers ({e.strerror or e})'
    if time.monotonic() >= until:
      raise KdjaxError(
        f'waited {wait_s:.0f} s (--join_timeout) for process 0 at {host}:{port}, and {problem}: check '
        '--coordinator, and that process 0 has been started.'
      )
    if not told and time.monotonic() > until - wait_s + TELL_S:
      told = True
      print(f'waiting for process 0 at {host}:{port}: {problem} so far', file=sys.stderr, flush=True)
    time.sleep(min(1.0, max(0.0, until - time.monotonic())))


def _initialize(launch: launchers.Launch, wait_s: int, heartbeat_s: int) -> None:
  with suppress(AttributeError):  # its C++ handler would take SIGTERM from `signals.listening`
    jax.config.update('jax_enable_preemption_service', False)
  arguments: dict[str, Any] = {
    'initialization_timeout': wait_s,
    'heartbeat_timeout_seconds': heartbeat_s,
    'shutdown_timeout_seconds': LAST_S,
  }
  if launch.processes is not None:
    # Under SLURM and Open MPI JAX itself takes one GPU a process, also where that is alone on its host.
    gpus = launchers.own_gpus(launch, os.environ, launchers.gpus_on_host())
    arguments |= {
      'coordinator_address': launch.coordinator,
      'num_processes': launch.processes,
      'process_id': launch.process,
      'local_device_ids': gpus,
      'cluster_detection_method': 'deactivate',
    }
  waiting = f'process {launch.process} waits for the others, {launch.processes} in all, up to {wait_s} s'
  tell = threading.Timer(TELL_S, lambda: print(waiting, file=sys.stderr, flush=True))
  tell.daemon = True
  tell.start()
  try:
    jax.distributed.initialize(**arguments)
  except (RuntimeError, ValueError, OSError) as e:
    raise KdjaxError(f'cannot join the other processes: {(str(e) or repr(e)).splitlines()[0]}') from e
  finally:
    tell.cancel()


@contextmanager
def claimed(lock: Path) -> Iterator[bool]:
  """Whether this run got the lock, the same in all its processes; the first process holds it."""
  file_lock, acquired = FileLock(lock), True
  if not jax.process_index():
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
      file_lock.acquire(timeout=0)
    except Timeout:
      acquired = False
  try:
    yield bool(multihost_utils.broadcast_one_to_all(np.array(acquired)))
  finally:
    file_lock.release()
