"""Batches that are on the devices before they are asked for."""

import grain
import numpy as np
from jax.sharding import Mesh

from kdjax.training.sharding import to_global_arrays


class DevicePrefetch:
  """Batches on the devices, each moved there while the step before it runs.

  Attributes:
    batch: the next to be used, as `to_global_arrays` gives it.
    state: where a run goes on that has used all the batches before it; what a checkpoint keeps.
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
