"""Measures: from a seed's metrics and outputs on the test split to the number in a table."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Measure(NamedTuple):
  """A number of a table, in the unit in which the paper prints it.

  Attributes:
    of: `(metrics, gathered) -> float`: name -> value of one seed, and the outputs that the task gathers,
      [N, ...].
    unit: printed after the number.
    higher_is_better: which way is up; None for a number that is neither good nor bad, and not tested.
    digits: decimals.
  """

  of: Callable
  unit: str = '%'
  higher_is_better: bool | None = True
  digits: int = 2


def percent(metric: str) -> Measure:
  """A metric of the task that is a share of 1."""
  return Measure(lambda metrics, gathered: 100 * metrics[metric])


def wrong(gathered, bias=None, among: int | None = None) -> float:
  """The number of misclassified examples.

  Args:
    gathered: 'logits' [N, C] and 'label' [N].
    bias: class -> added to its logit first.
    among: counts the examples of this class alone.
  """
  logits, label = gathered['logits'].astype(np.float64), gathered['label']
  for c, b in (bias or {}).items():
    logits[:, c] += b
  mask = label >= 0 if among is None else label == among
  return float(np.sum((logits.argmax(-1) != label) & mask))


def error_rate(gathered, bias=None) -> float:
  """The same in per cent of all examples."""
  return 100 * wrong(gathered, bias) / len(gathered['label'])


def best_bias(gathered, classes: tuple[int, ...], reach: float = 30.0, step: float = 0.1) -> dict[int, float]:
  """The bias, the same for these classes, with the fewest errors on these examples.

  That is a choice on the test data, as in Hinton et al. (1503.02531, section 3), who say so; of equally
  good ones it is the middle one.
  """
  grid = np.round(np.arange(-reach, reach + step / 2, step), 6)
  errors = np.array([wrong(gathered, dict.fromkeys(classes, b)) for b in grid])
  best = grid[errors == errors.min()]
  return dict.fromkeys(classes, float(best[len(best) // 2]))


ERRORS = Measure(lambda metrics, gathered: wrong(gathered), 'errors', False, 1)
MEASURES = {'top1': percent('top1'), 'errors': ERRORS, 'zero_shot': percent('zero_shot/accuracy')}
MEASURES |= {'rouge_l': percent('rouge_l')._replace(unit='')}  # printed times 100, as papers do
