"""Runs a table: unit by unit, each once, by whichever process claims it first."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdjax import report
from kdjax.errors import KdjaxError
from kdjax.evaluation import compare
from kdjax.experiment import stages
from kdjax.paper_tables import table as tables
from kdjax.paper_tables.plan import plan
from kdjax.paper_tables.results import results
from kdjax.paper_tables.units import Unit, done, key, teacher_done, units, values
from kdjax.runtime import distributed, files, progress, signals

WAIT_S = 5.0  # for a teacher that another process trains


def run(
  table: tables.Table,
  workdir: Path,
  data_dir: str | None = None,
  command: str = '',
  *,
  only: str = '',
  shard: str = '',
  planned: bool = False,
  scale: str = 'cpu',
  cache: str = '',
) -> dict:
  """Runs the selected cells that are not done, and writes the table after each unit.

  Processes that share the workdir share the work: a unit is locked by the process that runs it, and
  the lock ends with the process. `shard`, 'i/n', selects every n-th unit, and the teachers that it needs.

  Args:
    table: what to run.
    workdir: of all its experiments.
    data_dir: where TFDS keeps prepared data.
    command: to run it again.
    only: 'ROW,COLUMN', patterns of both.
    shard: 'i/n', i from 0.
    planned: only prints the plan.
    scale: of the table; for the plan.
    cache: where compiled programs and decoded data are cached.

  Returns:
    The results, as `kdjax.paper_tables.results` describes them.

  Raises:
    KdjaxError: for a wrong `only` or `shard`, and at the end if a unit could not be run.
    Interrupted: when a signal asked to stop.
  """
  cells = tables.chosen(table, only)
  selected = units(table, cells, workdir, data_dir, command, cache)
  mine = sharded(selected, shard)
  progress.console.print(plan(table, {n: selected[n] for n in mine}, cells, scale, workdir))
  all_units = units(table, table.cells(), workdir, data_dir, command, cache)

  def write():
    table_results = results(table, all_units, command)
    if not jax.process_index():
      report.write_table(table_results, workdir)
    return table_results

  if planned:
    return results(table, all_units, command)
  files.clear_parts(workdir, mine=False)
  failed, locks = {}, workdir / 'claims'
  with signals.listening() as stopped:
    pending = [n for n in mine if not done(selected[n])]
    while pending:
      if stopped():
        raise signals.Interrupted('stopped; run the same command to go on.')
      outcome = _run_pending(
        pending, selected, locks, failed, lambda name: _finish(table, selected[name], name, write)
      )
      pending = [
        n for n in pending if n not in failed and not done(selected[n]) and n not in outcome.elsewhere
      ]
      if pending and not outcome.ran:
        progress.say(f'waiting for the teacher of {pending[0]}')
        time.sleep(WAIT_S)
  table_results = write()
  progress.console.print(report.tables.terminal(table_results))
  progress.say(f'table: {workdir / (table.name + ".html")}')
  if failed:
    raise KdjaxError('; '.join(f'{name}: {why}' for name, why in failed.items()))
  return table_results


class _Outcome:
  def __init__(self):
    self.ran, self.elsewhere = False, set()


def _run_pending(pending, selected, locks, failed, finish: Callable) -> _Outcome:
  """One pass over the pending units: runs those that can be run."""
  outcome = _Outcome()
  for name in pending:
    unit = selected[name]
    if unit.teacher_from in failed:
      failed[name] = f'its teacher, {unit.teacher_from}, failed'
      continue
    if unit.teacher_from and not teacher_done(unit):
      continue
    try:
      with distributed.claimed(locks / f'{unit.experiment.workdir.name}.lock') as mine:
        if not mine:
          outcome.elsewhere.add(name)
          continue
        if not done(unit):
          finish(name)
        outcome.ran = True
    except KdjaxError as e:
      failed[name] = str(e)
      progress.say(f'{name}: {e}')
  return outcome


def _finish(table, unit: Unit, name: str, write: Callable) -> None:
  """Trains the missing stages of a unit and measures it."""
  progress.say(f'{name}: begun')
  started = time.monotonic()
  if table.runner:
    stages.run(unit.experiment, ('teacher',))
    measured = table.runner(name, unit.experiment)
  else:
    stages.run(unit.experiment, unit.stages)
    measured = measure(table, unit)
  previous = values(unit)
  wall_time = previous.get('wall_time_s', 0.0) + time.monotonic() - started
  if not jax.process_index():
    record = {
      'values': previous['values'] | measured,
      'wall_time_s': wall_time,
      'hardware': compare.hardware(),
      'seeds': list(unit.experiment.seeds('student')),
      'n_train': {
        'teacher': len(unit.experiment.data.train),
        'student': len(unit.experiment.data.transfer_set),
      },
      'finished': time.strftime('%Y-%m-%d'),
    }
    files.write_json(unit.experiment.workdir / 'values.json', record)
  multihost_utils.sync_global_devices(f'measured {name}')  # the other hosts read its values
  write()
  unit.experiment.__dict__.pop('data', None)  # a table has many


def measure(table: tables.Table, unit: Unit) -> dict[str, dict[str, list[float]]]:
  """'member/stage' -> measure -> one value per seed, on the test split, of models not measured before."""
  experiment, previous, measured, evaluated = unit.experiment, values(unit)['values'], {}, {}
  for member, stage in unit.wanted:
    owner = experiment if stage == 'teacher' else experiment.members.get(member, experiment)
    if key(member, stage) in previous:
      continue
    if not owner.trained(stage):
      measured[key(member, stage)] = {}  # its loss was not finite: there is no number to show
      continue
    folder = owner.folder(stage)
    if folder not in evaluated:
      data = owner.data.test
      evaluated[folder] = owner.evaluator(stage)(owner.variables(stage), data, f'{member} {stage}: test')
    measured[key(member, stage)] = _scores(table.measures, evaluated[folder])
  return measured


def _scores(measures: Mapping, evaluation) -> dict[str, list[float]]:
  """measure -> one value per seed."""
  seeds = len(next(iter(evaluation.metrics.values())))
  gathered = evaluation.gathered or [{}] * seeds
  per_seed = [{k: float(np.asarray(v)[i]) for k, v in evaluation.metrics.items()} for i in range(seeds)]
  return {
    name: [float(m.of(metrics, outputs)) for metrics, outputs in zip(per_seed, gathered, strict=True)]
    for name, m in measures.items()
  }


def sharded(selected: Mapping[str, Unit], shard: str) -> list[str]:
  """The units of 'i/n', with the lenders of their teachers; '' for all.

  Raises:
    KdjaxError: if it is not i/n.
  """
  if not shard:
    return list(selected)
  i, _, n = shard.partition('/')
  if not (i.isdigit() and n.isdigit() and int(i) < int(n)):
    raise KdjaxError(f'--shard={shard}: it is i/n, i from 0 to n - 1, such as 0/4.')
  names = [name for k, name in enumerate(selected) if k % int(n) == int(i)]
  lenders = {selected[name].teacher_from for name in names} - {''}
  return [name for name in selected if name in names or name in lenders]
