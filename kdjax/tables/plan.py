"""What a table will take: from steps measured here, or for a large machine from the FLOPs of its models."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
from rich import box
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from kdjax import compare, files, parallel, pipeline, stages, train
from kdjax import cost as cost_
from kdjax.compiled_step import compile_step
from kdjax.config_tree import digest
from kdjax.errors import KdjaxError
from kdjax.experiment import Experiment
from kdjax.progress import duration, say
from kdjax.setup import Loop
from kdjax.tables.table import Table
from kdjax.tables.units import Unit, done

REPEATS = 3
STEP = {'step_s': files.NUMBER, 'start_s': files.NUMBER}
# bf16 peak in FLOP/s of an accelerator's data sheet, and the share of it that is assumed to be reached.
CARDS = {'A100': 312e12, 'H100': 989e12, 'TPU v5e': 197e12}
UTILISATION = 0.2


def plan(table: Table, made: Mapping[str, Unit], cells: Mapping, scale: str, workdir: Path) -> Group:
  """What is left to run, a line a kind of experiment, with its cost."""
  left = {n: u for n, u in made.items() if not done(u)}
  kinds: dict[str, list[str]] = {}
  for name, unit in left.items():
    kinds.setdefault(_kind(unit), []).append(name)
  columns = ('experiments', 'stages', 'models', 'steps', 'batch', 'PFLOP', 'estimated')
  grid = Grid(box=box.SIMPLE_HEAD, title=Text(table.title), title_justify='left')
  for i, column in enumerate(columns):
    grid.add_column(column, justify='right' if i > 1 else 'left')
  hours, flops, unknown = 0.0, 0.0, ''
  for names in kinds.values():
    unit, n, work, seconds = left[names[0]], len(names), 0.0, 0.0
    try:
      if not unknown:
        work = n * total(unit, lambda s, m: _train_flops(m, s))
        seconds = 0.0 if scale == 'paper' else n * _seconds(unit, workdir)
    except KdjaxError as e:  # no data here: the rest of the plan is good all the same
      unknown = str(e)
    hours, flops = hours + seconds / 3600, flops + work
    train_ = unit.experiment.config['student']['train']
    grid.add_row(
      names[0] + (f' and {n - 1} more' if n > 1 else ''),
      ', '.join(s for s in unit.stages if s != 'teacher' or not unit.lender),
      str(n * _models(unit)),
      f'{train_["steps"]:,}',
      str(train_['batch_size']),
      f'{work / 1e15:.3g}' if work else '',
      duration(seconds) if seconds else '',
    )
  cannot = sum(not cell.experiments for cell in cells.values())
  some = f', {cannot} of which cannot be run' if cannot else ''
  said = [f'{len(cells)} cells{some}, {len(left)} of {len(made)} experiments to run.']
  if unknown:
    said.append(f'No estimate of the time: {unknown}')
  elif scale != 'paper':
    said.append(f'Estimated: {duration(3600 * hours)} on {compare.hardware()}, from steps measured here.')
  else:
    said += launch(table, flops)
  nothing = f'every cell{" that can be run" * bool(cannot)} is done.'
  if not made:
    nothing = 'none of these can be run.' if cannot == len(cells) else 'nothing of it falls to this shard.'
  return Group(grid, *map(Text, said)) if left else Group(Text(f'{table.title}: {nothing}'))


def launch(table: Table, flops: float) -> list[str]:
  """How long that takes on known cards, and how to start it there."""
  cards = ', '.join(f'{flops / (UTILISATION * peak) / 3600:.3g} {c} hours' for c, peak in CARDS.items())
  call = f'python run.py table configs/tables/{table.name}.py --scale=paper --workdir=W'
  return [
    f'{flops / 1e15:.3g} PFLOP. Estimated, not measured: {cards}, at {UTILISATION:.0%} of the peak in bf16.',
    'A box of 8 GPUs, an experiment a GPU: '
    f'for i in 0 1 2 3 4 5 6 7; do CUDA_VISIBLE_DEVICES=$i {call} & done; wait',
    f'A TPU slice, a batch over all its chips, the same on every host: {call}',
  ]


def total(unit: Unit, cost: Callable) -> float:
  """The sum over a unit's trainings of steps × models × `cost(stage, experiment)`.

  A teacher's look is a forward pass, and that a third of its training step.
  """
  experiment, found = unit.experiment, 0.0
  config = experiment.config
  if not unit.lender and not config['teacher']['init']:
    found += config['teacher']['train']['steps'] * cost('teacher', experiment)
  steps, seeds = config['student']['train']['steps'], config['seeds']
  members = experiment.members.values()
  if 'baseline' in unit.stages:
    found += sum(
      steps * seeds * cost('baseline', m) for m in {m.folder('baseline'): m for m in members}.values()
    )
  if 'student' in unit.stages:
    found += sum(steps * seeds * cost('baseline', m) for m in members)
    found += steps / 3 * cost('teacher', experiment)
  return found


def _seconds(unit: Unit, workdir: Path) -> float:
  """Of a whole unit: its steps, and for each of its models the time until the first one."""
  start = _measured(unit.experiment, 'baseline', workdir)['start_s']
  return total(unit, lambda s, m: _measured(m, s, workdir)['step_s']) + start * _models(unit)


def _models(unit: Unit) -> int:
  members, seeds = unit.experiment.members.values(), unit.experiment.config['seeds']
  baselines = len({m.folder('baseline') for m in members}) if 'baseline' in unit.stages else 0
  students = len(unit.experiment.members) if 'student' in unit.stages else 0
  return seeds * (baselines + students) + (not unit.lender)


def _kind(unit: Unit) -> str:
  """The same for units that cost the same: other seeds, data options, temperatures."""
  return digest([_own(unit.experiment, 'teacher'), bool(unit.lender), unit.stages]) + digest(
    sorted(digest(_own(m, 'student')) for m in unit.experiment.members.values())
  )


def _own(experiment: Experiment, stage: str):
  """What decides how long a step takes."""
  own = experiment.config[stage]
  model = {k: own[k] for k in ('model', 'inputs', 'dtype', 'drop')} | {
    'name': experiment.config['data']['name']
  }
  return model | {'batch': own['train']['batch_size'], 'optimiser': own['train']['optimiser']['name']}


def _train_flops(experiment: Experiment, stage: str) -> float:
  """Of one step of one model: three forward passes of a batch."""
  own = 'teacher' if stage == 'teacher' else 'student'
  key = 'flops', digest(_own(experiment, own))

  def make():
    batch = next(pipeline.eval_batches(experiment.data.train, jax.process_count()))
    model, (variables, _) = experiment.model(stage), experiment.shapes(stage)
    return cost_.flops(lambda v, b: model.apply(v, b, train=False)[0], variables, batch) or 0.0

  return 3 * experiment.config[own]['train']['batch_size'] * experiment.once(key, make)


def _measured(experiment: Experiment, stage: str, workdir: Path) -> dict[str, float]:
  """`step_s` of one model on this machine, and `start_s` until the first; kept in steps.json."""
  own = 'teacher' if stage == 'teacher' else 'student'
  path, name = workdir / 'steps.json', f'{compare.hardware()} {digest(_own(experiment, own))}'
  try:
    known = files.read_json(path, {str: STEP}, 'it is measured again')
  except KdjaxError:  # nobody needs it
    known = {}
  if name not in known:
    say(f'measuring a step of the {stage}')
    files.write_json(path, known | {name: _step_seconds(experiment, stage)})
    return _measured(experiment, stage, workdir)
  return known[name]


def _step_seconds(experiment: Experiment, stage: str) -> dict[str, float]:
  began = time.perf_counter()
  setup = stages.setup(experiment, stage, {stage: experiment})
  setup, mesh = setup._replace(seeds=setup.seeds[:1]), parallel.make_mesh()
  how = Loop.of('last', experiment.config['run'] | {'dispatch': 1})
  batch = train.first_batch(setup, mesh)
  compiled, states = compile_step(setup, how, mesh, batch)
  ((name, state),) = states.items()
  batch, t = compiled.teacher_forward(batch)
  took, start = [], time.perf_counter() - began
  for _ in range(REPEATS + 1):
    began = time.perf_counter()
    state, _ = compiled.update(name, state, t, batch)
    jax.block_until_ready(state)
    took.append(time.perf_counter() - began)
  return {'step_s': min(took[1:]), 'start_s': start}
