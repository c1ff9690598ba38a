"""What `kdjax.distill` returns: the comparison, and the trained models."""

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from kdjax import report
from kdjax.api.trained import Trained
from kdjax.errors import KdjaxError
from kdjax.experiment.experiment import Experiment


class Result:
  """A finished experiment.

  Attributes:
    results: the content of results.json: scores of each stage and seed, test, verdict, cost.
    workdir: the folder of everything.
    report: the path of report.html.
  """

  def __init__(self, experiment: Experiment, results: Mapping[str, Any]):
    self.experiment, self.results = experiment, results
    self.workdir = experiment.workdir
    self.report = self.workdir / ('ranking.html' if experiment.config['cohort'] else 'report.html')

  @property
  def teacher(self) -> Trained:
    """The large model."""
    return self.trained('teacher')

  @property
  def baseline(self) -> Trained:
    """The small model, trained on the labels alone."""
    return self.trained('baseline')

  @property
  def student(self) -> Trained:
    """The small model, distilled; of the first seed."""
    return self.trained('student')

  def trained(self, stage: str, seed: int | None = None, member: str = '') -> Trained:
    """The model of a stage.

    Args:
      stage: 'teacher', 'baseline', 'ceiling' or 'student'.
      seed: which of the stage's; the first by default.
      member: of a cohort.

    Raises:
      KdjaxError: if there is no such model.
    """
    experiment = self.experiment.members[member] if member else self.experiment
    folder = experiment.folder(stage)
    if not experiment.trained(stage):
      raise KdjaxError(f'{folder} holds no trained {stage}.')
    return Trained(folder.parent, stage, seed)

  def table(self) -> str:
    """The comparison as a table of text."""
    text = io.StringIO()
    ranked = self.experiment.config['cohort']
    Console(file=text, width=120, force_jupyter=False).print(
      (report.ranking.table if ranked else report.table)(self.results)
    )
    return text.getvalue()

  def __repr__(self) -> str:
    return self.table()
