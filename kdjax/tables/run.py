"""Runs a table: unit by unit, each once, by whichever process claims it first."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdjax import compare, files, interrupt, parallel, progress, report, stages
from kdjax.errors import KdjaxError
from kdjax.tables import table as tables
from kdjax.tables.plan import plan
from kdjax.tables.results import results
from kdjax.tables.units import Unit, done, key, teacher_done, units, values

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
  """Runs the cells that are asked for and not done, and writes the table after each unit.

  Processes that share the workdir share the work: a unit is locked by who runs it, and the lock goes with
  the process. `shard`, 'i/n', takes every n-th unit, and the teachers that it needs.

  Args:
    table: what to run.
    workdir: of all its experiments.
    data_dir: where TFDS keeps prepared data.
    command: how a person runs it again.
    only: 'ROW,COLUMN', patterns of both.
    shard: 'i/n', i from 0.
    planned: shows the plan alone.
    scale: that the table was made at; for the plan.
    cache: where compiled programs and decoded data are kept.

  Returns:
    The results, as `kdjax.tables.results` describes them.

  Raises:
    KdjaxError: for a wrong `only` or `shard`, and at the end if a unit could not be run.
    Interrupted: when a signal asked to stop.
  """
  cells = tables.chosen(table, only)
  made = units(table, cells, workdir, data_dir, command, cache)
  mine = sharded(made, shard)
  progress.console.print(plan(table, {n: made[n] for n in mine}, cells, scale, workdir))
  everything = units(table, table.cells(), workdir, data_dir, command, cache)

  def write():
    found = results(table, everything, command)
    if not jax.process_index():
      report.write_table(found, workdir)
    return found

  if planned:
    return results(table, everything, command)
  files.clear_parts(workdir, mine=False)
  failed, claims = {}, workdir / 'claims'
  with interrupt.listening() as stopped:
    left = [n for n in mine if not done(made[n])]
    while left:
      if stopped():
        raise interrupt.Interrupted('stopped; run the same command to go on.')
      step = _round(left, made, claims, failed, lambda name: _finish(table, made[name], name, write))
      left = [n for n in left if n not in failed and not done(made[n]) and n not in step.elsewhere]
      if left and not step.ran:
        progress.say(f'waiting for the teacher of {left[0]}')
        time.sleep(WAIT_S)
  found = write()
  progress.console.print(report.tables.terminal(found))
  progress.say(f'table: {workdir / (table.name + ".html")}')
  if failed:
    raise KdjaxError('; '.join(f'{name}: {why}' for name, why in failed.items()))
  return found


class _Round:
  def __init__(self):
    self.ran, self.elsewhere = False, set()


def _round(left, made, claims, failed, finish: Callable) -> _Round:
  """One look at all units that are left: those that can be run are."""
  step = _Round()
  for name in left:
    unit = made[name]
    if unit.lender in failed:
      failed[name] = f'its teacher, {unit.lender}, failed'
      continue
    if unit.lender and not teacher_done(unit):
      continue
    try:
      with parallel.claimed(claims / f'{unit.experiment.workdir.name}.lock') as mine:
        if not mine:
          step.elsewhere.add(name)
          continue
        if not done(unit):
          finish(name)
        step.ran = True
    except KdjaxError as e:
      failed[name] = str(e)
      progress.say(f'{name}: {e}')
  return step


def _finish(table, unit: Unit, name: str, write: Callable) -> None:
  """Trains what is missing of a unit and measures it."""
  progress.say(f'{name}: begun')
  began = time.monotonic()
  stages.run(unit.experiment, unit.stages)
  measured = measure(table, unit)
  before = values(unit)
  took = before.get('wall_time_s', 0.0) + time.monotonic() - began
  if not jax.process_index():
    found = {
      'values': before['values'] | measured,
      'wall_time_s': took,
      'hardware': compare.hardware(),
      'seeds': list(unit.experiment.seeds('student')),
      'n_train': {'teacher': len(unit.experiment.data.train), 'student': len(unit.experiment.data.few)},
      'finished': time.strftime('%Y-%m-%d'),
    }
    files.write_json(unit.experiment.workdir / 'values.json', found)
  multihost_utils.sync_global_devices(f'measured {name}')  # the others look for its values
  write()
  unit.experiment.__dict__.pop('data', None)  # a table has many


def measure(table: tables.Table, unit: Unit) -> dict[str, dict[str, list[float]]]:
  """'member/stage' -> measure -> a value a seed, on the test split, of what was not measured before."""
  experiment, have, found, judged = unit.experiment, values(unit)['values'], {}, {}
  for member, stage in unit.wanted:
    one = experiment if stage == 'teacher' else experiment.members.get(member, experiment)
    if key(member, stage) in have:
      continue
    if not one.trained(stage):
      found[key(member, stage)] = {}  # its loss was not finite: there is no number to show
      continue
    folder = one.folder(stage)
    if folder not in judged:
      data = one.data.test
      judged[folder] = one.judge(stage)(one.variables(stage), data, f'{member} {stage}: test')
    found[key(member, stage)] = _measures(table.measures, judged[folder])
  return found


def _measures(measures: Mapping, judged) -> dict[str, list[float]]:
  """measure -> a value a seed."""
  seeds = len(next(iter(judged.metrics.values())))
  gathered = judged.gathered or [{}] * seeds
  each = [{k: float(np.asarray(v)[i]) for k, v in judged.metrics.items()} for i in range(seeds)]
  return {
    name: [float(m.of(one, g)) for one, g in zip(each, gathered, strict=True)] for name, m in measures.items()
  }


def sharded(made: Mapping[str, Unit], shard: str) -> list[str]:
  """The units of 'i/n', with the lenders of their teachers; '' for all.

  Raises:
    KdjaxError: if it is no such thing.
  """
  if not shard:
    return list(made)
  i, _, n = shard.partition('/')
  if not (i.isdigit() and n.isdigit() and int(i) < int(n)):
    raise KdjaxError(f'--shard={shard}: it is i/n, i from 0 to n - 1, such as 0/4.')
  kept = [name for k, name in enumerate(made) if k % int(n) == int(i)]
  lenders = {made[name].lender for name in kept} - {''}
  return [name for name in made if name in kept or name in lenders]
