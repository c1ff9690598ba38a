"""One stage's training: of one student, or of a cohort that shares the teacher's forward of each batch."""

import time
from collections.abc import Callable
from pathlib import Path

import jax

from kdjax import (
  checkpoint,
  dispatch,
  finite,
  loop,
  memory,
  parallel,
  pipeline,
  progress,
)
from kdjax.compiled_step import compile_step
from kdjax.setup import Loop, Setup


def train(
  setup: Setup, how: Loop, folder: Path, seed: int, stopped: Callable[[], bool] = lambda: False
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
  held = setup.source.arrays if isinstance(setup.source, pipeline.Columns) and not setup.reader else None
  resident = dispatch.lives_on_device(how.resident, held, memory.free(mesh))
  batches = pipeline.train_batches(setup.source, setup.batch_size, seed, setup.reader, rows_only=resident)
  data = held if resident else {}
  compiled, states = compile_step(setup, how, mesh, first_batch(setup, mesh), data)
  keeper = checkpoint.Checkpoints(folder / 'checkpoints', how.keep)
  tree = {'state': states, 'best': loop.no_best(setup, how, states)}
  spent, failed, like = 0.0, {}, jax.tree.map(_abstract, tree)
  del states
  if restored := keeper.restore(like):
    tree, spent, failed = restored.tree, restored.data['wall_time_s'], restored.data['failed']
    batches.set_state(restored.data['batches'])
    progress.say(f'{setup.name}: going on from step {restored.step} of {setup.steps}')
  run = loop.Run(setup, how, mesh, keeper, restored.step if restored else 0, failed, began, spent)
  try:
    tree = run.steps(tree, compiled, batches, stopped)
  finally:
    keeper.close()
  shared = {'wall_time_s': time.monotonic() - began + spent, 'first_step_s': run.first_step_s}
  trained = {}
  for name in setup.members:
    trained[name] = {'steps': setup.steps, 'update_s': run.update_s(name), **shared}
    if name in run.failed:
      trained[name]['failed_at'] = run.failed[name]
      continue
    kept = jax.device_get(run.kept(name, tree))
    if setup.cohort and not finite.finite(kept):
      trained[name]['failed_at'] = setup.steps
    else:
      advice = f'they became so in {setup.steps} steps; lower the learning rate, or set clip'
      trained[name]['variables'] = finite.check(kept, setup.name, advice)
  return trained


def first_batch(setup: Setup, mesh: jax.sharding.Mesh) -> dict:
  """A batch such as the training's, over the devices."""
  first = next(pipeline.eval_batches(setup.source, setup.batch_size))
  first.pop('mask')  # a training batch has none
  return parallel.split(setup.reader.join(first) if setup.reader else first, mesh)


def _abstract(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
