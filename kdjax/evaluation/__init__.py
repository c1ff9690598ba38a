"""Whether it helped: the comparison, its test, ranking, cost and robustness."""
