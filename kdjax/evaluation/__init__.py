"""Evaluation: the comparison, its significance test, ranking, cost and robustness."""
