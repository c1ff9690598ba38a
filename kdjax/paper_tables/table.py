"""The definition of a table, and the selection of its cells."""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdjax import recipes
from kdjax.errors import KdjaxError, unknown
from kdjax.paper_tables.measures import Measure

SCALES = ('smoke', 'cpu', 'paper')


class Cell(NamedTuple):
  """One number of a table.

  Attributes:
    experiments: the mean is over their values, one per seed of each. () where it cannot be run.
    stage: 'teacher', 'baseline' or 'student', whose model is measured.
    member: of the experiments' cohort, 'student' where there is none.
    measure: of the table's measures; '' for the first.
    published: what the paper prints, None where it prints nothing.
    against: the experiments whose baseline a student is tested against; () for its own.
    needs: why it cannot be run, where there are no experiments.
  """

  experiments: tuple[str, ...]
  stage: str = 'student'
  member: str = 'student'
  measure: str = ''
  published: float | None = None
  against: tuple[str, ...] = ()
  needs: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of a paper, or several panels of one study.

  Attributes:
    name: of its files.
    title: what it shows, with the scale where it is not the paper's.
    paper: who published the numbers, where.
    source: where the published numbers were read.
    experiments: name -> config, as a recipe's `get_config` returns it.
    panels: title -> row -> column -> cell.
    measures: name -> measure; the first is the default of a cell.
    teachers: experiment -> the experiment whose teacher it uses.
    selection: what the paper evaluates: the last epoch, the best on the test data ...
    notes: deviations from the paper, and hints for reading the numbers.
    runner: `(name, experiment) -> 'member/stage' -> measure -> values`, run after the teacher in place of the
      stages, for a study that has others; None for the stages. A cell names what it measured.
  """

  name: str
  title: str
  paper: str
  source: str
  experiments: Mapping[str, Any]
  panels: Mapping[str, Mapping[str, Mapping[str, Cell]]]
  measures: Mapping[str, Measure]
  teachers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  selection: str = 'last epoch'
  notes: tuple[str, ...] = ()
  runner: Callable | None = None

  def measure(self, cell: Cell) -> str:
    return cell.measure or next(iter(self.measures))

  def cells(self, only: tuple[str, str] = ('*', '*')) -> dict[tuple[str, str, str], Cell]:
    """(panel, row, column) -> cell of those whose row and column match the two patterns."""
    return {
      (panel, row, column): cell
      for panel, rows in self.panels.items()
      for row, columns in rows.items()
      for column, cell in columns.items()
      if fnmatch.fnmatchcase(row, only[0]) and fnmatch.fnmatchcase(column, only[1])
    }


def is_table(path: Path) -> bool:
  """Whether a file defines a table, not only helpers of several."""
  return path.is_file() and 'def get_table(' in path.read_text(encoding='utf-8')


def load(path: str, scale: str) -> Table:
  """The table of a file, or the packaged one of that name.

  Raises:
    KdjaxError: if there is no such table or scale, or a cell names something unknown.
  """
  if scale not in SCALES:
    raise unknown('scale', scale, SCALES)
  file = recipes.find(path, recipes.TABLES)
  if not is_table(file):
    raise KdjaxError(f'{file} is no table: it defines no get_table(scale).')
  get_table = recipes.module(file).get_table
  with recipes.in_file(file):
    table = get_table(scale)
  for position, cell in table.cells().items():
    if bool(cell.experiments) == bool(cell.needs):
      raise KdjaxError(f'the cell {position} names either experiments or, in needs, why it has none.')
    for name in cell.experiments:
      if name not in table.experiments:
        raise unknown(f'experiment in the cell {position}', name, table.experiments)
      cohort = table.experiments[name]['cohort']
      if table.runner is None and cell.stage == 'student' and cell.member not in (cohort or {'student': {}}):
        raise unknown(f'member of {name!r} in the cell {position}', cell.member, cohort or {'student': {}})
    if table.measure(cell) not in table.measures:
      raise unknown(f'measure in the cell {position}', cell.measure, table.measures)
  return table


def chosen(table: Table, only: str) -> dict[tuple[str, str, str], Cell]:
  """The cells of `--only=ROW,COLUMN`, patterns of both; '' for all.

  Raises:
    KdjaxError: if there are none.
  """
  row, _, column = only.partition(',')
  cells = table.cells((row or '*', column or '*'))
  if not cells:
    rows, columns = ({k[i] for k in table.cells()} for i in (1, 2))
    known = f'rows: {", ".join(sorted(rows))}; columns: {", ".join(sorted(columns))}'
    raise KdjaxError(f'--only={only} matches no cell; {known}.')
  return cells
