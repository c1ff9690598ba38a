"""Correlation of two rows of numbers, in NumPy: Pearson's and Spearman's."""

import numpy as np
from scipy.stats import rankdata


def pearson(a: np.ndarray, b: np.ndarray) -> float:
  """Pearson's; 0 where one of the two does not vary."""
  a, b = a - a.mean(), b - b.mean()
  norm = np.sqrt(np.sum(a * a) * np.sum(b * b))
  return float(np.sum(a * b) / norm) if norm > 0 else 0.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
  """Spearman's: Pearson's of the ranks, equal values sharing their mean rank."""
  return pearson(rankdata(a), rankdata(b))
