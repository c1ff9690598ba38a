"""The experiments of a table as units of work, each with a folder and the models to measure."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kdjax.experiment.cohort import TRAINED
from kdjax.experiment.experiment import Experiment
from kdjax.paper_tables.table import Cell, Table
from kdjax.runtime import files

MEASURED = {'values': {str: {str: [files.NUMBER]}}, 'wall_time_s': files.NUMBER, 'hardware': str}


class Unit(NamedTuple):
  """An experiment of a table, and the models of it to measure.

  Attributes:
    experiment: with the members that the cells need.
    stages: those that the cells need, in order.
    wanted: (member, stage) of the models to measure.
    teacher_from: the unit whose teacher it uses, '' for its own.
  """

  experiment: Experiment
  stages: tuple[str, ...]
  wanted: tuple[tuple[str, str], ...]
  teacher_from: str


def units(
  table: Table, cells: Mapping, workdir: Path, data_dir: str | None = None, command: str = '', cache: str = ''
) -> dict[str, Unit]:
  """name -> unit of every experiment that the cells need, those that lend their teacher first."""
  needed: dict[str, set] = {}
  for cell in cells.values():
    for name in cell.experiments:
      needed.setdefault(name, set()).add((cell.member, cell.stage))
      if cell.stage == 'student':  # for the test
        needed[name].add((cell.member, 'baseline'))
  for name in list(needed):
    if teacher_from := table.teachers.get(name):
      needed.setdefault(teacher_from, set())
  by_name: dict[str, Unit] = {}
  order = [n for n in table.experiments if n in needed]
  for name in sorted(order, key=lambda n: n in table.teachers):
    config = table.experiments[name]
    config = config.to_dict() if hasattr(config, 'to_dict') else dict(config)
    pairs, teacher_from = needed[name], table.teachers.get(name, '')
    members = {member for member, stage in pairs if stage != 'teacher'}
    config['cohort'] = {k: v for k, v in config['cohort'].items() if k in members}
    stages = {'teacher'} | {stage for _, stage in pairs}
    folder = workdir / 'units' / folder_name(name)
    lender_experiment = by_name[teacher_from].experiment if teacher_from else None
    experiment = Experiment(config, folder, data_dir, command, teacher_from=lender_experiment, cache=cache)
    ordered = tuple(s for s in TRAINED if s in stages)
    by_name[name] = Unit(experiment, ordered, tuple(sorted(pairs)), teacher_from)
  return by_name


def folder_name(name: str) -> str:
  """An experiment's name as a folder name."""
  return ''.join(c if c.isalnum() or c in '-_.=' else '_' for c in name)


def teacher_done(unit: Unit) -> bool:
  return unit.experiment.done('teacher')


def values(unit: Unit) -> dict:
  """The measurements of a unit so far: 'member/stage' -> measure -> one value per seed, and the hardware.

  A member whose loss was not finite has no measures.
  """
  path = unit.experiment.workdir / 'values.json'
  advice = 'delete it and run the table again, which measures its units again'
  return files.read_json(path, MEASURED, advice, {'values': {}})


def done(unit: Unit) -> bool:
  """Whether its teacher is trained and all its models are measured."""
  measured = values(unit)['values']
  return teacher_done(unit) and all(key(*pair) in measured for pair in unit.wanted)


def key(member: str, stage: str) -> str:
  """'member/stage'; 'teacher' for the teacher, which the members share."""
  return stage if stage == 'teacher' else f'{member}/{stage}'


def of_cell(cell: Cell, known: Mapping[str, Mapping]) -> list[dict | None]:
  """The measures of a cell's model in each of its experiments; None where it was not measured.

  Args:
    cell: which model.
    known: experiment -> its `values`.
  """
  model = key(cell.member, cell.stage)
  return [known[name]['values'].get(model) if name in known else None for name in cell.experiments]


def cell_values(table: Table, cell: Cell, known: Mapping[str, Mapping]) -> list[float] | None:
  """The values of a cell over the seeds of its experiments; None where one of them is not measured."""
  scores, measure = [], table.measure(cell)
  for measures in of_cell(cell, known):
    if not measures or measure not in measures:
      return None
    scores += measures[measure]
  return scores
