"""What each seed draws anew beside its initial weights, `redraw` of a recipe: seeds trained one by one."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np


def apart(config: Mapping, stage: str) -> bool:
  """Whether the seeds of a stage are trained one after the other, each on draws of its own."""
  return 'teacher' in config['redraw'] if stage == 'teacher' else bool(config['redraw'])


def order(config: Mapping, stage: str, i: int) -> int:
  """The seed of the data's order, for seed i of a stage."""
  return config['seed'] + (i if apart(config, stage) and 'order' in config['redraw'] else 0)


def joined(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """One member's training out of those of its seeds: times add up, and one that was given up is all of them.

  Args:
    trainings: as `trainer.train` gives them for one member, a seed each.
  """
  if len(trainings) == 1:
    return dict(trainings[0])
  whole = dict(trainings[0]) | {'wall_time_s': sum(one['wall_time_s'] for one in trainings)}
  if failed := [one['failed_at'] for one in trainings if 'failed_at' in one]:
    whole.pop('variables', None)
    return whole | {'failed_at': failed[0]}
  each = [one['variables'] for one in trainings]
  return whole | {'variables': jax.tree.map(lambda *x: np.concatenate(x), *each)}
