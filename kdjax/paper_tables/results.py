"""The cells of a table: measured, published, and the difference."""

from collections.abc import Mapping

import numpy as np

from kdjax.evaluation import significance
from kdjax.paper_tables.table import Table
from kdjax.paper_tables.units import Unit, cell_values, of_cell, values


def results(table: Table, units: Mapping[str, Unit], command: str = '') -> dict:
  """The results of every cell; a cell that was not run has no value.

  p is of a paired test of a student against the baseline of the same budget, corrected over all cells of the
  table by the false discovery rate.
  """
  known = {name: values(unit) for name, unit in units.items()}
  panels, tests = {}, {}
  for (panel, row, column), cell in table.cells().items():
    entry = one(table, cell, known)
    panels.setdefault(panel, {}).setdefault(row, {})[column] = entry
    if entry.get('p_value') is not None:
      tests[panel, row, column] = entry
  adjusted = significance.false_discovery([t['p_value'] for t in tests.values()])
  for entry, p in zip(tests.values(), adjusted.tolist(), strict=True):
    higher_is_better = table.measures[entry['measure']].higher_is_better
    assert higher_is_better is not None  # no other measure is tested
    verdict = significance.verdict(p, entry['to_baseline'], higher_is_better)
    entry |= {'p_adjusted': p, 'verdict': verdict}
  cells = [c for rows in panels.values() for columns in rows.values() for c in columns.values()]
  n_done, started = sum(c['status'] == 'done' for c in cells), [v for v in known.values() if v['values']]
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
    'status': 'done' if n_done == len(cells) else f'{n_done} of {len(cells)} cells' if n_done else 'not run',
    'panels': panels,
    'hardware': sorted({v['hardware'] for v in started}),
    'wall_time_s': sum(v['wall_time_s'] for v in started),
    'command': command,
  }


def baseline(table: Table, cell, known: Mapping[str, Mapping], size: int) -> list[float] | None:
  """The baseline's values that the `size` values of a student are tested against."""
  baseline_cell = cell._replace(stage='baseline', experiments=cell.against or cell.experiments)
  scores = cell_values(table, baseline_cell, known)
  return scores if scores and len(scores) == size else None


def one(table: Table, cell, known: Mapping[str, Mapping]) -> dict:
  """The numbers of one cell, from the `values` of each experiment."""
  name = table.measure(cell)
  entry = {'status': 'not run', 'measure': name, 'published': cell.published, 'stage': cell.stage}
  if not cell.experiments:
    return entry | {'status': f'not run: needs {cell.needs}'}
  scores = cell_values(table, cell, known)
  if scores is None:
    return entry | ({'status': 'loss not finite'} if {} in of_cell(cell, known) else {})
  entry |= {'status': 'done', 'values': scores, 'mean': float(np.mean(scores))}
  entry |= {'std': float(np.std(scores, ddof=1)) if len(scores) > 1 else None}
  if cell.published is not None:
    entry['difference'] = entry['mean'] - cell.published
  higher_is_better = table.measures[name].higher_is_better
  if cell.stage != 'student' or higher_is_better is None:
    return entry
  if (baseline_scores := baseline(table, cell, known, len(scores))) is not None:
    test = significance.paired(scores, baseline_scores, higher_is_better)
    entry |= {
      'baseline': baseline_scores,
      'p_value': test.p,
      'verdict': test.verdict,
      'to_baseline': test.difference,
    }
    entry |= {'interval': test.interval, 'effect': test.effect}
  return entry
