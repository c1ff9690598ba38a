"""The plan of a recipe as a table, with what it assumes and how to launch it."""

import shlex

from rich import box
from rich.console import Console
from rich.table import Table

from kdjax.experiment import redraw
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.plan import Stage, plan
from kdjax.runtime import progress
from kdjax.runtime.program import program
from kdjax.runtime.topology import Topology
from kdjax.training import sharding

UTILISATION = 0.4  # the share of the peak that is assumed to be reached: large products of matrices


def step_seconds(stage: Stage, topology: Topology, near: int) -> tuple[float, float]:
  """(seconds of the operations of a step, of what is sent): the larger is the step, if they overlap.

  Args:
    stage: of the plan.
    topology: the devices.
    near: how many devices share weights, fsdp × tensor: within a node they send by its links.
  """
  device = topology.device
  far = device.network if topology.nodes > 1 and device.network else device.link
  link = device.link if near <= topology.per_node else far
  return stage.flops / (UTILISATION * device.flops), stage.gradients / far + stage.split / link


def show(experiment: Experiment, topology: Topology, console: Console) -> None:
  """Prints the plan of every stage that trains, and the line that launches it."""
  planned = plan(experiment, topology)
  stages, free = planned.stages, topology.device.memory
  sizes = sharding.axis_sizes(experiment.config['run']['mesh'], topology.count)
  near = sizes.get('fsdp', 1) * sizes.get('tensor', 1)
  times = [step_seconds(stage, topology, near) for stage in stages]
  table = Table(box=box.SIMPLE_HEAD, title=f'{experiment.config["name"]} on {topology.describe()}')
  table.title_justify = 'left'
  for heading in ('on each device', *(stage.name for stage in stages)):
    table.add_column(heading, justify='left' if heading == 'on each device' else 'right')
  for purpose in dict.fromkeys(purpose for stage in stages for purpose in stage.needs):
    table.add_row(purpose.removeprefix('for '), *(progress.size(s.needs.get(purpose, 0)) for s in stages))
  table.add_section()
  table.add_row('memory', *(f'{progress.size(s.memory)}, {s.memory / free:.0%}' for s in stages))
  table.add_row('operations of a step', *(f'{s.flops / 1e12:.3g} TFLOP' for s in stages))
  table.add_row('sent in a step', *(progress.size(s.gradients + s.split) for s in stages))
  table.add_row('seconds of the operations', *(f'{t[0]:.3g}' for t in times))
  table.add_row('seconds of what is sent', *(f'{t[1]:.3g}' for t in times))
  table.add_row('steps', *(f'{s.steps:,}' for s in stages))
  whole = [max(t) * s.steps for t, s in zip(times, stages, strict=True)]
  table.add_row('in all', *(progress.duration(seconds) for seconds in whole))
  console.print(table)
  for line in _remarks(experiment, topology, planned, times):
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _remarks(experiment, topology, planned, times) -> list[str]:
  """What the table assumes, what does not fit, and how to launch it."""
  uncounted = f' Not counted: {planned.uncounted}.' if planned.uncounted else ''
  lines = [
    f'Estimated, not measured: operations at {UTILISATION:.0%} of the peak in bfloat16, data in time, no '
    f'evaluation; a loop in a step counts once.{uncounted} '
    f'What a step makes on its way is {planned.compiled}.'
  ]
  for stage in planned.stages:
    if stage.memory > topology.device.memory:
      lines.append(f'{stage.name}: does not fit {topology.device.name}: {stage.advice}.')
  if any(max(t) < 1e-3 for t in times):
    lines.append('A step below a millisecond is shorter than its dispatch by the host: see run.dispatch.')
  config = experiment.config
  if config['teacher']['source'] == 'store':
    lines.append("teacher.source is 'store': the student's steps are then without the teacher's operations.")
  groups = -(-len(experiment.members) // config['run']['members_per_program'])
  if groups > 1 or redraw.apart(config, 'student'):
    lines.append(
      f'The table is of one training of a student, of {groups} groups of members; seeds that are drawn anew '
      'train one by one.'
    )
  lines.append(f'Launch: {topology.launch(program(), _arguments(experiment.command))}')
  return lines


def _arguments(command: str) -> str:
  """The flags of the planned command, without the topology."""
  flags = [part for part in shlex.split(command) if part.startswith('--config')]
  return shlex.join([*(flags or ['--config=RECIPE']), '--workdir=/shared/runs/NAME'])
