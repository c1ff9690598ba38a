"""Whether a training fits the free memory."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from kdjax.errors import KdjaxError
from kdjax.runtime import progress

TEMPORARY = 'for what a step makes on its way'


def size(tree: Any) -> int:
  """Bytes of all arrays, or shapes, of a tree."""
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def temporary(compiled: Any) -> dict[str, int]:
  """Bytes of the temporary buffers of a compiled step on each device; {} where the backend does not tell."""
  analysis = compiled.memory_analysis()
  return {TEMPORARY: analysis.temp_size_in_bytes} if analysis else {}


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
  except (OSError, KeyError, ValueError):  # no Linux, or no cgroup: the limits read so far
    pass
  return min(limits) / len(mesh.local_devices)


def check(name: str, needs: Mapping[str, float], available: float, advice: str) -> None:
  """Raises KdjaxError if a training needs more than the free bytes of a device.

  Args:
    name: of the stage.
    needs: purpose -> bytes.
    available: free bytes.
    advice: what the user can change.
  """
  if (total := sum(needs.values())) > available:
    parts = ', '.join(f'{progress.size(n)} {purpose}' for purpose, n in needs.items())
    raise KdjaxError(
      f'{name}: the training takes at least {progress.size(total)} on each device and there are '
      f'{progress.size(max(available, 0))}: {advice} ({parts}).'
    )
