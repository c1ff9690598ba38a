"""The score of every stage on each domain of the test: where an example comes from, such as a person."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.input.encode import label_mask
from kdjax.types import Task


def measure(gathered: Mapping[str, Sequence[Mapping]], task: Task, names: Sequence[str]) -> dict:
  """The entry 'domains' of results.json; {} where the examples have no domain, or all the same.

  Args:
    gathered: stage -> for each seed what `Task.gather` names, and 'domain' [N].
    task: of the metric.
    names: of the domains, in order.

  Returns:
    domain -> 'count' of examples with a label, and 'stages': stage -> a value a seed; of domains with any.
  """
  first = next(iter(gathered.values()), [{}])[0]
  if not task.label or not names or not {'domain', 'label', 'logits'} <= first.keys():
    return {}
  known = label_mask(task.label, first['label']) & (first['domain'] >= 0) & (first['domain'] < len(names))
  domains, counts = np.unique(first['domain'][known], return_counts=True)
  if len(domains) < 2:
    return {}

  def values(domain):
    return {s: [score(task, g, g['domain'] == domain) for g in seeds] for s, seeds in gathered.items()}

  return {names[int(d)]: {'count': int(n), 'stages': values(d)} for d, n in zip(domains, counts, strict=True)}


def score(task: Task, gathered: Mapping, rows: np.ndarray) -> float:
  """The task's metric on some rows of what was gathered."""
  part: Any = {k: v[rows] for k, v in gathered.items()}  # NumPy's arrays, which the task takes as well
  if task.whole:
    return float(task.finalize(part)[task.metric])
  total, count = task.metrics(part, part)[task.metric]
  return float(total / max(float(count), 1))
