"""One stage's training: of one student, or of a cohort that shares the teacher's look at each batch."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdjax import checkpoint, loop, parallel, pipeline, progress, taps
from kdjax import step as steps_
from kdjax.types import Method, Model, Task


class Member(NamedTuple):
  """What is trained, over all seeds, beside the others of its cohort.

  Attributes:
    model: of the student, or of the teacher in its own stage.
    method: the distillation losses, combined.
    tx: the optimiser.
    task_weight: of the labels' loss.
    ema: decay of the average of the variables, which is then what is kept; 0 for none.
    past: steps after which the student becomes its own teacher anew; 0 for another teacher.
    own: whether the average, or the past student, is the teacher.
    folder: where its metrics.jsonl goes.
  """

  model: Model
  method: Method
  tx: Any
  task_weight: float
  ema: float
  past: int
  own: bool
  folder: Path

  def decay(self) -> float | Callable:
    """Of the variables that the state keeps beside the trained ones."""
    if not self.past:
      return self.ema
    return lambda step: jnp.where((step + 1) % self.past == 0, 0.0, 1.0)


class Setup(NamedTuple):
  """One stage's training, as functions and data.

  Attributes:
    name: 'teacher', 'baseline' or 'student'.
    members: name -> what is trained; all see the same batches and the same teacher.
    task: its labels' loss and metrics.
    view: augments a batch on the device.
    teacher: gives the taps that the methods read; None without one.
    teacher_variables: its weights, an argument of the step.
    source: the training examples.
    validation: what is evaluated on the way, or None.
    seeds: a model each for every member.
    steps, batch_size: of the training.
  """

  name: str
  members: Mapping[str, Member]
  task: Task
  view: Callable
  teacher: Model | None
  teacher_variables: Any
  source: Any
  validation: Any
  seeds: tuple[int, ...]
  steps: int
  batch_size: int


def train(
  setup: Setup, how: loop.Loop, folder: Path, seed: int, stopped: Callable[[], bool] = lambda: False
) -> dict[str, dict]:
  """Trains, or goes on where `folder` says it stopped.

  Args:
    setup: what is trained.
    how: the loop is run.
    folder: of the checkpoints.
    seed: of the order of the data.
    stopped: says whether to save and stop; asked after every step.

  Returns:
    Of each member 'variables' stacked over seeds, 'steps', 'update_s' (of its own update), and of all
    together 'wall_time_s' (all sittings) and 'first_step_s'. A member of a cohort whose loss was not
    finite has 'failed_at', the step, and no variables.

  Raises:
    KdjaxError: if no loss is finite, or a checkpoint cannot be written.
    Interrupted: after SIGTERM or Ctrl-C, with everything saved.
  """
  began = time.monotonic()
  mesh = parallel.make_mesh()
  parallel.check_batch(setup.batch_size, mesh, f'{setup.name}.train.batch_size')
  many = f' of each of {len(setup.members)} members' if len(setup.members) > 1 else ''
  progress.say(
    f'{setup.name}: compiling ({setup.steps} steps of {setup.batch_size} examples, '
    f'{len(setup.seeds)} seed{"s" * (len(setup.seeds) > 1)}{many})'
  )
  batches = pipeline.train_batches(setup.source, setup.batch_size, seed)
  first = next(pipeline.eval_batches(setup.source, setup.batch_size))
  first.pop('mask')  # a training batch has none
  first = parallel.split(first, mesh)
  look, updates, states = compile_all(setup, how, mesh, first)
  keeper = checkpoint.Checkpoints(folder / 'checkpoints', how.keep)
  tree = {'state': states, 'best': loop.no_best(setup, how, states)}
  spent, failed = 0.0, {}
  if found := keeper.restore(jax.tree.map(_abstract, tree)):
    tree, spent, failed = found.tree, found.data['wall_time_s'], found.data['failed']
    batches.set_state(found.data['batches'])
    progress.say(f'{setup.name}: going on from step {found.step} of {setup.steps}')
  run = loop.Run(setup, how, mesh, keeper, found.step if found else 0, failed, began - spent)
  try:
    tree = run.steps(tree, look, updates, batches, stopped)
  finally:
    keeper.close()
  shared = {'wall_time_s': time.monotonic() - began + spent, 'first_step_s': run.first_step_s}
  trained = {}
  for name in setup.members:
    trained[name] = {'steps': setup.steps, 'update_s': run.update_s(name), **shared}
    if name in run.failed:
      trained[name]['failed_at'] = run.failed[name]
    else:
      trained[name]['variables'] = jax.device_get(run.kept(name, tree))
  return trained


def _abstract(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def compile_all(
  setup: Setup, how: loop.Loop, mesh: jax.sharding.Mesh, batch: Mapping
) -> tuple[Callable, dict[str, Callable], dict[str, Any]]:
  """`look(batch) -> (batch, t)`, and `update(state, t, batch)` and the first state of each member."""
  axis = parallel.AXIS if how.parallel == 'pmap' else None
  functions = {name: _functions(setup, member, axis) for name, member in setup.members.items()}
  teacher_variables = jax.device_put(setup.teacher_variables, parallel.everywhere(mesh))  # once
  everything = steps_.make_look(setup.teacher, setup.view)
  seen, t = jax.eval_shape(everything, teacher_variables, batch)
  wanted = frozenset().union(*(_read(setup, member, t, seen) for member in setup.members.values()))
  t = {k: v for k, v in t.items() if k in wanted}
  look = steps_.make_look(setup.teacher, setup.view, wanted)
  look = parallel.compile_look(look, mesh, (seen, t), setup.batch_size)
  seen, taught = look(teacher_variables, batch)
  updates, states = {}, {}
  for name, (init, update) in functions.items():
    relational = setup.members[name].method.relational
    updates[name] = parallel.compile_update(update, mesh, how.parallel, relational, t, setup.batch_size)
    states[name] = jax.jit(init, out_shardings=parallel.everywhere(mesh))(taught, seen)
  return (lambda batch: look(teacher_variables, batch)), updates, states


def _functions(setup, member, axis=None):
  """`init(t, batch) -> state` and `update(state, t, batch)` of one member, over all seeds."""
  unroll, n = jax.default_backend() == 'cpu', len(setup.seeds)
  decay = member.decay()
  init = steps_.make_init(member.model, member.method, member.tx, ema=bool(decay), own=member.own)
  update = steps_.make_update(
    member.model,
    setup.task,
    member.method,
    member.tx,
    task_weight=member.task_weight,
    ema=decay,
    axis=axis,
  )
  if member.own:
    update = steps_.from_itself(update, member.model)
  init = steps_.over_seeds(init, n, unroll)
  seeds = jnp.array(setup.seeds, jnp.uint32)
  return (lambda t, batch: init(seeds, t, batch)), steps_.over_seeds(update, n, unroll)


def _read(setup, member, t, batch):
  """Names of the teacher's taps that a member reads."""
  (init, update), seen = _functions(setup, member), set()

  def all_of_it(t, batch):
    state = init(taps.Noted(t, seen), batch)
    return update(state, taps.Noted(t, seen), batch)

  jax.eval_shape(all_of_it, t, batch)
  return seen
