"""`redraw` of a recipe: draws that differ between seeds, which are then trained one by one."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np


def apart(config: Mapping, stage: str) -> bool:
  """Whether the seeds of a stage are trained one by one, each with its own draws or its own first weights."""
  if stage == 'teacher':
    return 'teacher' in config['redraw']
  return bool(config['redraw'] or config['student']['init'])


def order(config: Mapping, stage: str, i: int) -> int:
  """The seed of the data's order, for seed i of a stage."""
  return config['seed'] + (i if apart(config, stage) and 'order' in config['redraw'] else 0)


def joined(trainings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Joins the results of a member's seeds: variables are stacked, times added; one failed seed fails all.

  Args:
    trainings: the results of `trainer.train` for the member, one a seed.
  """
  if len(trainings) == 1:
    return dict(trainings[0])
  whole = dict(trainings[0]) | {'wall_time_s': sum(one['wall_time_s'] for one in trainings)}
  if failed := [one['failed_at'] for one in trainings if 'failed_at' in one]:
    whole.pop('variables', None)
    return whole | {'failed_at': failed[0]}
  each = [one['variables'] for one in trainings]
  return whole | {'variables': jax.tree.map(lambda *x: np.concatenate(x), *each)}
