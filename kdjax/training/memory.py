"""Whether a training fits the memory that is free."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from kdjax.errors import KdjaxError
from kdjax.runtime import progress


def size(tree: Any) -> int:
  """Bytes of all arrays, or shapes, of a tree."""
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def on_the_way(compiled: Any) -> dict[str, int]:
  """What a compiled step makes and frees again, in bytes a device, where the backend says it."""
  analysis = compiled.memory_analysis()
  return {'for what a step makes on its way': analysis.temp_size_in_bytes} if analysis else {}


def free(mesh: jax.sharding.Mesh) -> float:
  """Bytes that a device has left: on CPU its share of the machine's, or of the container's."""
  device = mesh.local_devices[0]
  if stats := device.memory_stats():
    return stats.get('bytes_limit', math.inf) - stats.get('bytes_in_use', 0)
  limits = [math.inf]
  try:
    lines = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
    limits.append(1024 * int(lines['MemAvailable'].split()[0]))
    group = Path('/sys/fs/cgroup')
    limit = (group / 'memory.max').read_text().strip()
    if limit != 'max':
      limits.append(int(limit) - int((group / 'memory.current').read_text()))
  except (OSError, KeyError, ValueError):  # another system: what was found so far
    pass
  return min(limits) / len(mesh.local_devices)


def check(name: str, needs: Mapping[str, float], available: float, advice: str) -> None:
  """Raises KdjaxError if the bytes that are free on a device are fewer than it needs.

  Args:
    name: of the stage.
    needs: what for -> bytes.
    there: bytes.
    shrink: what to do about it.
  """
  if (total := sum(needs.values())) > available:
    parts = ', '.join(f'{progress.size(n)} {what}' for what, n in needs.items())
    raise KdjaxError(
      f'{name}: the training takes at least {progress.size(total)} on each device and there are '
      f'{progress.size(max(available, 0))}: {advice} ({parts}).'
    )
