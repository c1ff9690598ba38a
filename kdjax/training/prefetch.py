"""Prefetching of batches to the devices."""

import grain
import numpy as np
from jax.sharding import Mesh

from kdjax.training.sharding import to_global_arrays


class DevicePrefetch:
  """Moves each batch to the devices while the step before it runs.

  Attributes:
    batch: the next batch, of `to_global_arrays`.
    state: of the iterator before that batch, for a checkpoint.
  """

  def __init__(self, batches: grain.DatasetIterator, mesh: Mesh, steps: int = 1):
    self.batches, self.mesh, self.steps = batches, mesh, steps
    self.fetch()

  def fetch(self) -> None:
    """Sets `batch` and `state` to those of the next step, or of the next `steps`, stacked."""
    self.state = self.batches.get_state()
    batches = [next(self.batches) for _ in range(self.steps)]
    batch = {k: np.stack([b[k] for b in batches]) for k in batches[0]} if self.steps > 1 else batches[0]
    self.batch = to_global_arrays(batch, self.mesh, self.steps)
