"""The cells of a table as they stand: measured, published, and how far apart."""

from collections.abc import Mapping

import numpy as np

from kdjax import significance
from kdjax.tables.table import Table
from kdjax.tables.units import Unit, cell_values, of_cell, values


def results(table: Table, made: Mapping[str, Unit], command: str = '') -> dict:
  """What is known of every cell; a cell that was not run has no value.

  p is of a paired test of a student against the baseline of the same budget, corrected over all cells of the
  table by the false discovery rate.
  """
  known = {name: values(unit) for name, unit in made.items()}
  panels, tests = {}, {}
  for (panel, row, column), cell in table.cells().items():
    shown = one(table, cell, known)
    panels.setdefault(panel, {}).setdefault(row, {})[column] = shown
    if shown.get('p_value') is not None:
      tests[panel, row, column] = shown
  adjusted = significance.false_discovery([t['p_value'] for t in tests.values()])
  for shown, p in zip(tests.values(), adjusted.tolist(), strict=True):
    better = table.measures[shown['measure']].higher_is_better
    verdict = significance.verdict(p, shown['to_baseline'], better)
    shown |= {'p_adjusted': p, 'verdict': verdict}
  cells = [c for rows in panels.values() for columns in rows.values() for c in columns.values()]
  ran, begun = sum(c['status'] == 'done' for c in cells), [v for v in known.values() if v['values']]
  return {
    'name': table.name,
    'title': table.title,
    'paper': table.paper,
    'source': table.source,
    'selection': table.selection,
    'notes': list(table.notes),
    'measures': {
      k: {'unit': m.unit, 'digits': m.digits, 'higher_is_better': m.higher_is_better}
      for k, m in table.measures.items()
    },
    'status': 'done' if ran == len(cells) else f'{ran} of {len(cells)} cells' if ran else 'not run',
    'panels': panels,
    'hardware': sorted({v['hardware'] for v in begun}),
    'wall_time_s': sum(v['wall_time_s'] for v in begun),
    'command': command,
  }


def baseline(table: Table, cell, known: Mapping[str, Mapping], size: int) -> list[float] | None:
  """The values that the `size` ones of a student are tested against."""
  other = cell._replace(stage='baseline', experiments=cell.against or cell.experiments)
  found = cell_values(table, other, known)
  return found if found and len(found) == size else None


def one(table: Table, cell, known: Mapping[str, Mapping]) -> dict:
  """The numbers of one cell, of the `values` of each experiment."""
  name = table.measure(cell)
  shown = {'status': 'not run', 'measure': name, 'published': cell.published, 'stage': cell.stage}
  if not cell.experiments:
    return shown | {'status': f'not run: needs {cell.needs}'}
  found = cell_values(table, cell, known)
  if found is None:
    return shown | ({'status': 'loss not finite'} if {} in of_cell(cell, known) else {})
  shown |= {'status': 'done', 'values': found, 'mean': float(np.mean(found))}
  shown |= {'std': float(np.std(found, ddof=1)) if len(found) > 1 else None}
  if cell.published is not None:
    shown['difference'] = shown['mean'] - cell.published
  tested = cell.stage == 'student' and table.measures[name].higher_is_better is not None
  if tested and (base := baseline(table, cell, known, len(found))) is not None:
    test = significance.paired(found, base, table.measures[name].higher_is_better)
    shown |= {'baseline': base, 'p_value': test.p, 'verdict': test.verdict, 'to_baseline': test.difference}
    shown |= {'interval': test.interval, 'effect': test.effect}
  return shown
