"""What `kdjax.distill` returns: the comparison, and the trained models."""

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from kdjax import report
from kdjax.experiment.experiment import Experiment


class Result:
  """A finished experiment.

  Attributes:
    results: the content of results.json: scores, test, verdict, cost.
    workdir: the folder of everything.
    report: the path of report.html.
  """

  def __init__(self, experiment: Experiment, results: Mapping[str, Any]):
    self.experiment, self.results = experiment, results
    self.workdir = experiment.workdir
    self.report = self.workdir / ('ranking.html' if experiment.config['cohort'] else 'report.html')

  def table(self) -> str:
    """The comparison as a table of text."""
    console = Console(file=io.StringIO(), width=120)
    console.print(report.table(self.results))
    return console.file.getvalue()

  def __repr__(self) -> str:
    return self.table()
