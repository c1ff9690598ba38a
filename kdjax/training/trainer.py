"""Trains one stage: one student, or a cohort that shares each teacher forward."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from kdjax.input import pipeline, splits
from kdjax.runtime import progress
from kdjax.training import checkpoint, finite, loop, memory, multi_step, sharding
from kdjax.training.compiled_step import compile_step
from kdjax.training.setup import LoopConfig, Setup


def train(
  setup: Setup, how: LoopConfig, folder: Path, seed: int, stopped: Callable[[], bool] = lambda: False
) -> dict[str, dict]:
  """Trains a stage, resuming from the checkpoint in `folder` where there is one.

  Args:
    setup: of the training.
    how: settings of the loop.
    folder: of the checkpoints.
    seed: of the order of the data.
    stopped: whether to save and stop; called after every step.

  Returns:
    member -> 'variables' stacked over seeds, 'steps', 'update_s' (median seconds of its update), and the same
    for all members: 'wall_time_s' (resumed runs included) and 'first_step_s'. A member of a cohort whose loss
    was not finite has 'failed_at', the step, and no variables.

  Raises:
    KdjaxError: if no loss is finite, or a checkpoint cannot be written.
    Interrupted: after SIGTERM or Ctrl-C, with everything saved.
  """
  began = time.monotonic()
  mesh = sharding.make_mesh(how.mesh)
  sharding.check_batch(setup.batch_size, mesh, f'{setup.name}.train.batch_size')
  arrays = (
    setup.source.arrays if isinstance(setup.source, splits.InMemorySplit) and not setup.reader else None
  )
  resident = multi_step.lives_on_device(how.resident, arrays, memory.free(mesh))
  batches: Any = pipeline.train_batches(
    setup.source,
    setup.batch_size,
    seed,
    setup.reader,
    rows_only=resident,
    index_shuffle=setup.index_shuffle,
  )
  data = arrays if resident and arrays else {}
  compiled, states = compile_step(setup, how, mesh, first_batch(setup, mesh), data)
  checkpoints = checkpoint.Checkpoints(folder / 'checkpoints', how.keep)
  tree = {'state': states, 'best': loop.initial_best(setup, how, states)}
  spent, failed, abstract = 0.0, {}, jax.tree.map(_abstract, tree)
  del states
  if restored := checkpoints.restore(abstract):
    tree, spent, failed = restored.tree, restored.data['wall_time_s'], restored.data['failed']
    batches.set_state(restored.data['batches'])
    progress.say(f'{setup.name}: going on from step {restored.step} of {setup.steps}')
  first = restored.step if restored else 0
  train_loop = loop.TrainLoop(setup, how, mesh, checkpoints, first, failed, began, spent)
  try:
    tree = train_loop.steps(tree, compiled, batches, stopped)
  finally:
    checkpoints.close()
  shared = {'wall_time_s': time.monotonic() - began + spent, 'first_step_s': train_loop.first_step_s}
  trained = {}
  for name in setup.members:
    trained[name] = {'steps': setup.steps, 'update_s': train_loop.update_s(name), **shared}
    if name in train_loop.failed:
      trained[name]['failed_at'] = train_loop.failed[name]
      continue
    selected = sharding.to_host(train_loop.selected_variables(name, tree))
    if setup.cohort and not finite.finite(selected):
      trained[name]['failed_at'] = setup.steps
    else:
      advice = (
        f'they became so in {progress.counted(setup.steps, "step")}; lower the learning rate, or set clip'
      )
      trained[name]['variables'] = finite.check(selected, setup.name, advice)
  return trained


def first_batch(setup: Setup, mesh: jax.sharding.Mesh) -> dict:
  """A training batch, on the devices."""
  first = next(pipeline.eval_batches(setup.source, setup.batch_size))
  first.pop('mask')  # a training batch has none
  return sharding.to_global_arrays(setup.reader.join(first) if setup.reader else first, mesh)


def _abstract(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
