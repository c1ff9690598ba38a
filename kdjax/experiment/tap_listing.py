"""The taps of teacher and student: what a method can pair, with shapes."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from kdjax.experiment import build
from kdjax.experiment.experiment import Experiment
from kdjax.nn.taps import WEIGHTS


def taps(experiment: Experiment, stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """(tap -> shape of what the model returns, of the modules within it by path), for a batch of one.

  The weights of these modules are taps too, by their paths, and not listed.

  Raises:
    KdjaxError: if the model cannot be built for the data.
  """
  config = {**experiment.stage_config(stage), 'model': experiment.attributes(stage)}
  plain, whole = (
    experiment.trace(build.model(config, experiment.data.of(stage), experiment.task, capture), stage)[1]
    for capture in (False, True)
  )
  whole = {k: v for k, v in whole.items() if not k.startswith(WEIGHTS)}
  own = plain if plain.keys() != whole.keys() else {k: v for k, v in whole.items() if k == 'logits'}
  return dict(own), {k: v for k, v in whole.items() if k not in own}


def show(experiment: Experiment, console: Console) -> None:
  """Prints the taps of both models."""
  for stage in ('teacher', 'student'):
    if stage == 'teacher' and experiment.config['teacher']['outputs']:
      console.print(f'{stage}: its outputs come from {experiment.config["teacher"]["outputs"]}', markup=False)
    table = Table(box=box.SIMPLE_HEAD, title=stage, title_justify='left')
    for heading in ('tap', 'shape, B examples', 'type'):
      table.add_column(heading, overflow='fold')
    for part in taps(experiment, stage):
      _rows(table, part)
      table.add_section()
    console.print(table)


def _rows(table: Table, part: Mapping[str, Any]) -> None:
  for name, x in part.items():
    axes = ', '.join(map(str, ('B', *x.shape[1:]) if x.ndim else ()))
    table.add_row(name, f'[{axes}]'.replace('[', r'\['), str(x.dtype))
