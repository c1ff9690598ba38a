"""The loop of one stage: build, restore, step, log, evaluate, save."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import checkpoint, parallel, pipeline, progress
from kdjax import step as steps_
from kdjax.errors import KdjaxError
from kdjax.evaluate import make_evaluate
from kdjax.interrupt import Interrupted
from kdjax.log import Log
from kdjax.types import Method, Model, Task


class Setup(NamedTuple):
  """One stage's training, as functions and data.

  Attributes:
    name: 'teacher', 'baseline' or 'student'.
    model: what is trained.
    task: its labels' loss and metrics.
    method: the distillation losses, combined.
    tx: the optimiser.
    view: augments a batch on the device.
    teacher: gives the taps that `method` reads; None without one.
    teacher_variables: its weights, an argument of the step.
    source: the training examples.
    validation: what is evaluated on the way, or None.
    seeds: one model each, trained in one program on the same batches.
    task_weight: of the labels' loss.
    steps, batch_size, ema: of the training.
  """

  name: str
  model: Model
  task: Task
  method: Method
  tx: Any
  view: Any
  teacher: Model | None
  teacher_variables: Any
  source: Any
  validation: Any
  seeds: tuple[int, ...]
  task_weight: float
  steps: int
  batch_size: int
  ema: float


class Loop(NamedTuple):
  """How the loop is run.

  Only `select`, with it `eval_every`, and `parallel` change what comes out.

  Attributes:
    select: 'last', or 'best' on validation: which weights of a seed are kept.
    parallel: 'jit' or 'pmap'.
    eval_every, log_every, save_every: in steps.
    eval_batch: examples at once.
    keep: how many checkpoints.
    tensorboard: whether to write its files too.
  """

  select: str
  parallel: str
  eval_every: int
  log_every: int
  save_every: int
  eval_batch: int
  keep: int
  tensorboard: bool


def train(
  setup: Setup, loop: Loop, folder: Path, seed: int, stopped: Callable[[], bool] = lambda: False
) -> dict:
  """Trains, or goes on where `folder` says it stopped.

  Args:
    setup: what is trained.
    loop: how.
    folder: of this stage: checkpoints and metrics.jsonl.
    seed: of the order of the data.
    stopped: says whether to save and stop; asked after every step.

  Returns:
    'variables' stacked over seeds, 'steps', 'wall_time_s' (all sittings together) and 'first_step_s'.

  Raises:
    KdjaxError: if a loss is not finite, or a checkpoint cannot be written.
    Interrupted: after SIGTERM or Ctrl-C, with everything saved.
  """
  began = time.monotonic()
  mesh = parallel.make_mesh()
  parallel.check_batch(setup.batch_size, mesh, f'{setup.name}.train.batch_size')
  progress.say(
    f'{setup.name}: compiling ({setup.steps} steps of {setup.batch_size} examples, '
    f'{len(setup.seeds)} seed{"s" * (len(setup.seeds) > 1)})'
  )
  batches = pipeline.train_batches(setup.source, setup.batch_size, seed)
  step, init = _functions(setup, loop, mesh)
  state = init(parallel.split(next(pipeline.eval_batches(setup.source, setup.batch_size)), mesh))
  keeper = checkpoint.Checkpoints(folder / 'checkpoints', loop.keep)
  tree = {'state': state, 'best': _no_best(state, loop.select, len(setup.seeds))}
  spent = 0.0
  if found := keeper.restore(jax.tree.map(_abstract, tree)):
    tree, spent = found.tree, found.data['wall_time_s']
    batches.set_state(found.data['batches'])
    progress.say(f'{setup.name}: going on from step {found.step} of {setup.steps}')
  run = _Run(
    setup, loop, mesh, keeper, Log(folder, int(tree['state'].step[0]), loop.tensorboard), began - spent
  )
  try:
    tree = run.steps(tree, step, batches, stopped)
  finally:
    keeper.close()
  chosen = tree['best']['variables'] if loop.select == 'best' else _variables(tree['state'], setup.ema)
  return {
    'variables': jax.device_get(chosen),
    'steps': setup.steps,
    'wall_time_s': time.monotonic() - began + spent,
    'first_step_s': run.first_step_s,
  }


def _abstract(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _functions(setup, loop, mesh):
  """The compiled step, and `init(batch) -> state`, both over all seeds."""
  axis = parallel.AXIS if loop.parallel == 'pmap' else None
  teach = steps_.make_teach(setup.teacher)
  unroll = jax.default_backend() == 'cpu'
  n = len(setup.seeds)
  update = steps_.make_update(
    setup.model,
    setup.task,
    setup.method,
    setup.tx,
    task_weight=setup.task_weight,
    ema=setup.ema,
    axis=axis,
  )
  step = steps_.make_step(steps_.over_seeds(update, n, unroll), teach, setup.view)
  init_one = steps_.make_init(setup.model, setup.method, setup.tx, bool(setup.ema))
  init_all = steps_.over_seeds(init_one, n, unroll)
  seeds = jnp.array(setup.seeds, jnp.uint32)

  def first(teacher_variables, batch):
    return init_all(seeds, teach(teacher_variables, batch), batch)

  whole = parallel.everywhere(mesh)
  teacher_variables = jax.device_put(setup.teacher_variables, whole)  # once, not at every step
  compiled = parallel.compile_step(step, mesh, loop.parallel, setup.method.relational)
  first = jax.jit(first, out_shardings=whole)
  return (
    lambda state, batch: compiled(state, teacher_variables, batch),
    lambda batch: first(teacher_variables, batch),
  )


def _variables(state, ema):
  return {'params': state.ema if ema else state.params['student'], **state.stats['student']}


def _no_best(state, select, seeds):
  if select != 'best':
    return {}
  where = jax.tree.leaves(state)[0].sharding
  worst = jax.device_put(jnp.full(seeds, -jnp.inf), where)
  return {'variables': jax.tree.map(jnp.copy, _variables(state, bool(state.ema))), 'score': worst}


@jax.jit
def _better(best, variables, score):
  """Per seed, the variables of the higher score."""
  won = score > best['score']

  def pick(new, old):
    return jnp.where(won.reshape(-1, *[1] * (new.ndim - 1)), new, old)

  picked = jax.tree.map(pick, variables, best['variables'])
  return {'variables': picked, 'score': jnp.where(won, score, best['score'])}


class _Run:
  """What the loop holds on to between steps."""

  def __init__(self, setup, loop, mesh, keeper, log, began):
    self.setup, self.loop, self.mesh, self.keeper, self.log = setup, loop, mesh, keeper, log
    self.began, self.first_step_s, self.pending, self.said = began, 0.0, [], {}
    self.evaluate = make_evaluate(setup.model, setup.task, mesh, loop.eval_batch, gather=False)
    self.copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

  def steps(self, tree, step, batches, stopped):
    setup, loop, start = self.setup, self.loop, int(tree['state'].step[0])
    waited, since, timed = 0.0, time.monotonic(), start  # of the steps since the last log
    with progress.bar(setup.name, setup.steps, 'step', start) as shown:
      n = start
      for n in range(start + 1, setup.steps + 1):
        asked = time.monotonic()
        batch = parallel.split(next(batches), self.mesh)
        waited += time.monotonic() - asked
        tree['state'], losses = step(tree['state'], batch)
        if self.pending:  # at most one step is queued behind the one that runs
          jax.block_until_ready(self.pending[-1])
        self.pending.append(losses)
        last = n == setup.steps
        if n == start + 1:
          jax.block_until_ready(losses)
          self.first_step_s = time.monotonic() - since
          shown.restart()
          waited, since, timed = 0.0, time.monotonic(), n
        if n % loop.log_every == 0 or last:
          jax.block_until_ready(losses)
          spent = time.monotonic() - since
          self.report(n, shown, *((spent / (n - timed), waited / spent) if n > timed else ()))
          waited, since, timed = 0.0, time.monotonic(), n
        if setup.validation is not None and (n % loop.eval_every == 0 or last):
          self.report(n, shown)
          began = time.monotonic()
          tree = self.judge(n, tree, shown)
          since += time.monotonic() - began
        stop = stopped() if n % 10 == 0 or jax.process_count() == 1 else False
        if n % loop.save_every == 0 or last or stop:
          self.save(n, tree, batches, shown)
        shown.update(n)
        if stop:
          break
    self.keeper.wait()
    if stopped():
      raise Interrupted(f'{setup.name}: saved at step {n}; run the same command to go on.')
    return tree

  def report(self, n, shown, took=None, share=None):
    """Logs the means since the last time, and stops where one is not finite."""
    if not self.pending:
      return
    sums = jax.device_get(self.pending)
    self.pending = []
    record = {}
    for name in sums[0]:
      total, count = (np.sum([np.asarray(s[name][i], np.float64) for s in sums], 0) for i in (0, 1))
      record['grad_norm' if name == 'grad_norm' else f'loss/{name}'] = total / np.maximum(count, 1)
    record['loss/total'] = sum(v for k, v in record.items() if k.startswith('loss/'))
    if not all(np.isfinite(v).all() for v in record.values()):
      saved = self.keeper.newest()
      kept = 'nothing was saved yet' if saved is None else f'the checkpoint of step {saved} is good'
      raise KdjaxError(
        f'{self.setup.name}: the loss is not finite in the {len(sums)} steps up to {n} ({kept}). '
        'Lower the learning rate or the weight of a loss, or set clip.'
      )
    if took is not None:
      record |= {'time/step': took, 'time/data': share}
    self.log.write(n, record)
    self.said['loss'] = record['loss/total'].mean()
    shown.note = self.words()

  def words(self):
    return ', '.join(f'{k} {v:.4f}' for k, v in self.said.items())

  def judge(self, n, tree, shown):
    variables = _variables(tree['state'], self.setup.ema)
    found = self.evaluate(variables, self.setup.validation, f'{self.setup.name}: validation').metrics
    self.log.write(n, {f'eval/{k}': v for k, v in found.items()})
    score = found[self.setup.task.metric]
    self.said[self.setup.task.metric] = score.mean()
    shown.note = self.words()
    if self.loop.select == 'best':
      sign = 1 if self.setup.task.higher_is_better else -1
      tree = tree | {'best': _better(tree['best'], variables, jnp.asarray(sign * score, jnp.float32))}
    return tree

  def save(self, n, tree, batches, shown):
    self.report(n, shown)  # a state is saved only after its loss was seen to be finite
    data = {'batches': batches.get_state(), 'wall_time_s': time.monotonic() - self.began}
    self.keeper.save(n, self.copy(tree), data)
