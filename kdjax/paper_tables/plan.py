"""The cost of a table: from steps measured here, or for a large machine from the FLOPs of its models."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
from rich import box
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from kdjax.errors import KdjaxError
from kdjax.evaluation import compare
from kdjax.evaluation import cost as cost_
from kdjax.experiment import stages
from kdjax.experiment.experiment import Experiment
from kdjax.input import pipeline
from kdjax.paper_tables.table import Table
from kdjax.paper_tables.units import Unit, done
from kdjax.runtime import files, topology
from kdjax.runtime.config_tree import digest
from kdjax.runtime.program import program
from kdjax.runtime.progress import counted, duration, say
from kdjax.training import sharding, trainer
from kdjax.training.compiled_step import compile_step
from kdjax.training.setup import LoopConfig

REPEATS = 3
STEP = {'step_s': files.NUMBER, 'start_s': files.NUMBER}
CARDS = ('a100', 'h100', 'v5e')
UTILISATION = 0.2  # the share of a card's peak that is assumed to be reached: small convolutions


def plan(table: Table, units: Mapping[str, Unit], cells: Mapping, scale: str, workdir: Path) -> Group:
  """The pending experiments, one line per kind, with their cost."""
  pending = {n: u for n, u in units.items() if not done(u)}
  kinds: dict[str, list[str]] = {}
  for name, unit in pending.items():
    kinds.setdefault(_cost_key(unit), []).append(name)
  columns = ('experiments', 'stages', 'models', 'steps', 'batch', 'PFLOP', 'estimated')
  grid = Grid(box=box.SIMPLE_HEAD, title=Text(table.title), title_justify='left')
  for i, column in enumerate(columns):
    grid.add_column(column, justify='right' if i > 1 else 'left')
  hours, flops, unknown = 0.0, 0.0, ''
  for names in kinds.values():
    unit, n, work, seconds = pending[names[0]], len(names), 0.0, 0.0
    try:
      if not unknown:
        work = n * total(unit, lambda s, m: _train_flops(m, s))
        seconds = 0.0 if scale == 'paper' else n * _unit_seconds(unit, workdir)
    except KdjaxError as e:  # no data here: the rest of the plan still holds
      unknown = str(e)
    hours, flops = hours + seconds / 3600, flops + work
    train_config = unit.experiment.config['student']['train']
    grid.add_row(
      names[0] + (f' and {n - 1} more' if n > 1 else ''),
      ', '.join(s for s in unit.stages if s != 'teacher' or not unit.teacher_from),
      str(n * _count_models(unit)),
      f'{train_config["steps"]:,}',
      str(train_config['batch_size']),
      f'{work / 1e15:.3g}' if work else '',
      duration(seconds) if seconds else '',
    )
  not_runnable = sum(not cell.experiments for cell in cells.values())
  suffix = f', {not_runnable} of which cannot be run' if not_runnable else ''
  lines = [f'{counted(len(cells), "cell")}{suffix}, {len(pending)} of {len(units)} experiments to run.']
  if unknown:
    lines.append(f'No estimate of the time: {unknown}')
  elif scale != 'paper':
    lines.append(f'Estimated: {duration(3600 * hours)} on {compare.hardware()}, from steps measured here.')
  else:
    lines += launch(table, flops)
  message = f'every cell{" that can be run" * bool(not_runnable)} is done.'
  if not units:
    message = 'none of these can be run.' if not_runnable == len(cells) else 'none of it is in this shard.'
  return Group(grid, *map(Text, lines)) if pending else Group(Text(f'{table.title}: {message}'))


def launch(table: Table, flops: float) -> list[str]:
  """The time on known accelerators, and the commands to start it there."""
  cards = (topology.DEVICES[name] for name in CARDS)
  hours = ', '.join(f'{flops / (UTILISATION * card.flops) / 3600:.3g} {card.name} hours' for card in cards)
  command = f'{program()} table configs/tables/{table.name}.py --scale=paper --workdir=W'
  return [
    f'{flops / 1e15:.3g} PFLOP. Estimated, not measured: {hours}, at {UTILISATION:.0%} of the peak in bf16.',
    'A box of 8 GPUs, one experiment per GPU: '
    f'for i in 0 1 2 3 4 5 6 7; do CUDA_VISIBLE_DEVICES=$i {command} & done; wait',
    f'A TPU slice, a batch over all its chips, the same on every host: {command}',
  ]


def total(unit: Unit, cost: Callable) -> float:
  """The sum over a unit's trainings of steps × models × `cost(stage, experiment)`.

  A forward pass of the teacher counts as a third of its training step.
  """
  experiment, total_cost = unit.experiment, 0.0
  config = experiment.config
  if not unit.teacher_from and not config['teacher']['init']:
    total_cost += config['teacher']['train']['steps'] * cost('teacher', experiment)
  steps, seeds = config['student']['train']['steps'], config['seeds']
  members = experiment.members.values()
  if 'baseline' in unit.stages:
    total_cost += sum(
      steps * seeds * cost('baseline', m) for m in {m.folder('baseline'): m for m in members}.values()
    )
  if 'student' in unit.stages:
    total_cost += sum(steps * seeds * cost('baseline', m) for m in members)
    total_cost += steps / 3 * cost('teacher', experiment)
  return total_cost


def _unit_seconds(unit: Unit, workdir: Path) -> float:
  """Seconds of a whole unit: its steps, and for each model the time until the first one."""
  start = _step_cost(unit.experiment, 'baseline', workdir)['start_s']
  return total(unit, lambda s, m: _step_cost(m, s, workdir)['step_s']) + start * _count_models(unit)


def _count_models(unit: Unit) -> int:
  members, seeds = unit.experiment.members.values(), unit.experiment.config['seeds']
  baselines = len({m.folder('baseline') for m in members}) if 'baseline' in unit.stages else 0
  students = len(unit.experiment.members) if 'student' in unit.stages else 0
  return seeds * (baselines + students) + (not unit.teacher_from)


def _cost_key(unit: Unit) -> str:
  """Equal for units of equal cost: other seeds, data options, temperatures."""
  return digest([_cost_config(unit.experiment, 'teacher'), bool(unit.teacher_from), unit.stages]) + digest(
    sorted(digest(_cost_config(m, 'student')) for m in unit.experiment.members.values())
  )


def _cost_config(experiment: Experiment, stage: str):
  """The parts of a config that decide how long a step takes."""
  config = experiment.config[stage]
  model = {k: config[k] for k in ('model', 'inputs', 'dtype', 'drop')} | {
    'name': experiment.config['data']['name']
  }
  return model | {'batch': config['train']['batch_size'], 'optimiser': config['train']['optimiser']['name']}


def _train_flops(experiment: Experiment, stage: str) -> float:
  """FLOPs of one step of one model: three forward passes of a batch."""
  section = 'teacher' if stage == 'teacher' else 'student'
  key = 'flops', digest(_cost_config(experiment, section))

  def compute():
    batch = next(pipeline.eval_batches(experiment.data.train, jax.process_count()))
    model, (variables, _) = experiment.model(stage), experiment.shapes(stage)
    return cost_.flops(lambda v, b: model.apply(v, b, train=False)[0], variables, batch) or 0.0

  return 3 * experiment.config[section]['train']['batch_size'] * experiment.cached(key, compute)


def _step_cost(experiment: Experiment, stage: str, workdir: Path) -> dict[str, float]:
  """`step_s` of one model on this machine, and `start_s` until the first; cached in steps.json."""
  section = 'teacher' if stage == 'teacher' else 'student'
  path, name = workdir / 'steps.json', f'{compare.hardware()} {digest(_cost_config(experiment, section))}'
  try:
    timings = files.read_json(path, {str: STEP}, 'it is measured again')
  except KdjaxError:  # only a cache
    timings = {}
  if name not in timings:
    say(f'measuring a step of the {stage}')
    files.write_json(path, timings | {name: _step_seconds(experiment, stage)})
    return _step_cost(experiment, stage, workdir)
  return timings[name]


def _step_seconds(experiment: Experiment, stage: str) -> dict[str, float]:
  started = time.perf_counter()
  setup = stages.setup(experiment, stage, {stage: experiment})
  loop = LoopConfig.of('last', experiment.config['run'] | {'dispatch': 1})
  setup, mesh = setup._replace(seeds=setup.seeds[:1]), sharding.make_mesh(loop.mesh)
  batch = trainer.first_batch(setup, mesh)
  compiled, states = compile_step(setup, loop, mesh, batch)
  ((name, state),) = states.items()
  batch, t = compiled.teacher_forward(batch)
  times, start = [], time.perf_counter() - started
  for _ in range(REPEATS + 1):
    started = time.perf_counter()
    state, _ = compiled.update(name, state, t, batch)
    jax.block_until_ready(state)
    times.append(time.perf_counter() - started)
  return {'step_s': min(times[1:]), 'start_s': start}
