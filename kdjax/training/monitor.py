"""What a log says of the machine: examples a second, use of the peak, memory; and a trace of some steps."""

from pathlib import Path
from typing import Any

import jax

from kdjax.errors import KdjaxError
from kdjax.runtime import progress, topology


def speed(step_s: float, batch_size: int, flops: float, mesh: jax.sharding.Mesh) -> dict[str, float]:
  """'speed/examples' a second and device; 'speed/mfu' and 'memory/peak' (bytes) where the device tells.

  Args:
    step_s: seconds a step.
    batch_size: examples a step.
    flops: operations of a step on all devices; 0 where unknown.
    mesh: of the training.
  """
  record = {'speed/examples': batch_size / step_s / mesh.size}
  device = mesh.local_devices[0]
  known = topology.kind(device.device_kind)
  if known and flops:
    record['speed/mfu'] = flops / step_s / mesh.size / known.flops
  if (stats := device.memory_stats()) and 'peak_bytes_in_use' in stats:
    record['memory/peak'] = float(stats['peak_bytes_in_use'])
  return record


def steps_of(profile: str) -> tuple[int, int]:
  """(first, last) of 'FIRST:LAST'; (0, 0) for ''.

  Raises:
    KdjaxError: for anything else.
  """
  if not profile:
    return 0, 0
  first, _, last = profile.partition(':')
  if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
    raise KdjaxError(f'run.profile is {profile!r}; it is FIRST:LAST, steps counted from 1, such as 10:20.')
  return int(first), int(last)


class Trace:
  """A trace by the profiler of the steps `profile`, in `folder`; nothing where it is ''."""

  def __init__(self, profile: str, folder: Path):
    (self.first, self.last), self.folder, self.running = steps_of(profile), folder, False

  def before(self, start: int, stop: int) -> None:
    """Starts where the steps after `start`, up to `stop`, have one of the trace."""
    if not self.running and start < self.last and self.first <= stop:
      jax.profiler.start_trace(self.folder)
      self.running = True

  def after(self, step: int, arrays: Any) -> None:
    """Ends it once its last step is done, whose outputs are `arrays`."""
    if self.running and step >= self.last:
      jax.block_until_ready(arrays)
      self.close()
      progress.say(
        f'profile: steps {self.first} to {self.last} in {self.folder}; `pip install xprof`, and '
        f'`xprof --logdir={self.folder}` shows them'
      )

  def close(self) -> None:
    if self.running:
      jax.profiler.stop_trace()
      self.running = False
