"""The experiments of a table as units of work, each with a folder, and with what of it is wanted."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kdjax import files
from kdjax.cohort import TRAINED
from kdjax.experiment import Experiment
from kdjax.tables.table import Cell, Table

MEASURED = {'values': {str: {str: [files.NUMBER]}}, 'wall_time_s': files.NUMBER, 'hardware': str}


class Unit(NamedTuple):
  """An experiment of a table, and what it has to give.

  Attributes:
    experiment: with the members that are wanted.
    stages: those that are wanted, in order.
    wanted: (member, stage) that are measured.
    lender: the unit whose teacher it takes, '' for its own.
  """

  experiment: Experiment
  stages: tuple[str, ...]
  wanted: tuple[tuple[str, str], ...]
  lender: str


def units(
  table: Table, cells: Mapping, workdir: Path, data_dir: str | None = None, command: str = '', cache: str = ''
) -> dict[str, Unit]:
  """name -> unit of every experiment that the cells need, the lenders of teachers first."""
  wanted: dict[str, set] = {}
  for cell in cells.values():
    for name in cell.experiments:
      wanted.setdefault(name, set()).add((cell.member, cell.stage))
      if cell.stage == 'student':  # what it is tested against
        wanted[name].add((cell.member, 'baseline'))
  for name in list(wanted):
    if lender := table.teachers.get(name):
      wanted.setdefault(lender, set())
  made: dict[str, Unit] = {}
  order = [n for n in table.experiments if n in wanted]
  for name in sorted(order, key=lambda n: n in table.teachers):
    config = table.experiments[name]
    config = config.to_dict() if hasattr(config, 'to_dict') else dict(config)
    asked, lender = wanted[name], table.teachers.get(name, '')
    members = {member for member, stage in asked if stage != 'teacher'}
    config['cohort'] = {k: v for k, v in config['cohort'].items() if k in members}
    stages = {'teacher'} | {stage for _, stage in asked}
    folder = workdir / 'units' / folder_name(name)
    lent = made[lender].experiment if lender else None
    experiment = Experiment(config, folder, data_dir, command, lender=lent, cache=cache)
    known = tuple(s for s in TRAINED if s in stages)
    made[name] = Unit(experiment, known, tuple(sorted(asked)), lender)
  return made


def folder_name(name: str) -> str:
  """An experiment's name as that of a folder."""
  return ''.join(c if c.isalnum() or c in '-_.=' else '_' for c in name)


def teacher_done(unit: Unit) -> bool:
  return unit.experiment.done('teacher')


def values(unit: Unit) -> dict:
  """What a unit has measured so far: 'member/stage' -> measure -> a value a seed, and on what machine.

  A member whose loss was not finite has no measures.
  """
  path = unit.experiment.workdir / 'values.json'
  anew = 'delete it and run the table again, which measures what it held'
  return files.read_json(path, MEASURED, anew, {'values': {}})


def done(unit: Unit) -> bool:
  """Whether everything that is wanted of it has been measured."""
  have = values(unit)['values']
  return teacher_done(unit) and all(key(*pair) in have for pair in unit.wanted)


def key(member: str, stage: str) -> str:
  """Members share the teacher, and what they call it does not matter."""
  return stage if stage == 'teacher' else f'{member}/{stage}'


def of_cell(cell: Cell, known: Mapping[str, Mapping]) -> list[dict | None]:
  """The measures of a cell's model in each of its experiments; None where it was not measured.

  Args:
    cell: which model.
    known: experiment -> its `values`.
  """
  where = key(cell.member, cell.stage)
  return [known[name]['values'].get(where) if name in known else None for name in cell.experiments]


def cell_values(table: Table, cell: Cell, known: Mapping[str, Mapping]) -> list[float] | None:
  """The values of a cell over the seeds of its experiments; None where one of them is not measured."""
  found, measure = [], table.measure(cell)
  for have in of_cell(cell, known):
    if not have or measure not in have:
      return None
    found += have[measure]
  return found
