"""The training loop: steps, logs, evaluation, checkpoints, and a clean stop."""

import contextlib
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.runtime import progress
from kdjax.runtime.signals import Interrupted, StopChecks
from kdjax.training import monitor, multi_step, prefetch
from kdjax.training.compiled_step import CompiledStep
from kdjax.training.evaluate import make_evaluate, primary
from kdjax.training.metrics_log import Log
from kdjax.training.setup import LoopConfig, Setup


def initial_best(setup: Setup, how: LoopConfig, states: dict) -> dict:
  """member -> its best variables so far and their scores, -inf at first; {} unless `how.select` is 'best'."""
  if how.select != 'best':
    return {}
  best = {}
  for name, state in states.items():
    worst = jax.device_put(jnp.full(len(setup.seeds), -jnp.inf), state.step.sharding)
    copied = jax.tree.map(jnp.copy, setup.members[name].evaluated(state))
    best[name] = {'variables': copied, 'score': worst}
  return best


@jax.jit
def _better(best, variables, score):
  """For each seed, the variables with the higher score."""
  better = score > best['score']

  def pick(new, old):
    return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

  picked = jax.tree.map(pick, variables, best['variables'])
  return {'variables': picked, 'score': jnp.where(better, score, best['score'])}


class TrainLoop:
  """One run of the training loop, from the start or a checkpoint to the last step.

  Attributes:
    failed: member -> the step at which its loss was not finite.
    first_step_s: seconds to the end of the first step, compilation included.
  """

  def __init__(
    self, setup, how: LoopConfig, mesh, checkpoints, step: int, failed: dict, began: float, spent: float
  ):
    self.setup, self.how, self.mesh, self.checkpoints = setup, how, mesh, checkpoints
    self.began, self.spent = began, spent  # the start of this run, the seconds of those it resumes
    self.start, self.failed, self.first_step_s = step, dict(failed), 0.0
    self.pending, self.notes, self.update_times = [], {}, {}
    folders = {name: Path(member.folder) for name, member in setup.members.items()}
    self.folder = next(iter(folders.values()))
    self.logs = {name: Log(folder, step, how.tracker) for name, folder in folders.items()}
    evaluators = {}  # members of one model share the compiled evaluation
    for member in setup.members.values():
      evaluators.setdefault(
        member.model,
        make_evaluate(member.model, setup.task, mesh, how.eval_batch, False, how.rules(setup.rules_of)),
      )
    self.evaluators = evaluators
    self.copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

  def selected_variables(self, name: str, tree: dict) -> dict:
    """The variables that a finished training exports."""
    if self.how.select == 'best':
      return tree['best'][name]['variables']
    return self.setup.members[name].evaluated(tree['state'][name])

  def update_s(self, name: str) -> float | None:
    """Median seconds of a member's update, None where none was timed."""
    return float(np.median(self.update_times[name])) if name in self.update_times else None

  def steps(self, tree, compiled: CompiledStep, batches, stopped):
    """Runs all remaining steps, and returns the tree of states and best variables.

    Raises:
      Interrupted: where `stopped()` is true, once a checkpoint is saved.
      KdjaxError: for a loss that is not finite, or a checkpoint that cannot be written.
    """
    setup, how, stride = self.setup, self.how, self.how.dispatch
    multi_step.check(stride, how.parallel, {'what is left of the steps': setup.steps - self.start})
    prefetched = prefetch.DevicePrefetch(batches, self.mesh, stride)
    waited, since, timed = 0.0, time.monotonic(), self.start  # since the last log
    stop_now, profiler = StopChecks(stopped), monitor.Trace(how.profile, self.folder / 'profile')
    with progress.bar(setup.name, setup.steps, 'step', self.start) as bar, contextlib.closing(profiler):
      n = self.start
      for n in range(self.start + stride, setup.steps + 1, stride):
        last, logs = n == setup.steps, n % how.log_every == 0
        profiler.before(n - stride, n)
        losses = self.step(tree['state'], compiled, prefetched.batch, logs and n > self.start + stride)
        profiler.after(n, losses)
        fetch_began = time.monotonic()
        prefetched.fetch()
        if all(x.is_ready() for x in jax.tree.leaves(losses)):  # else the fetch was hidden by the step
          waited += time.monotonic() - fetch_began
        if self.pending:  # at most one dispatch is queued behind the one that runs
          jax.block_until_ready(self.pending[-1])
        self.pending.append(losses)
        if n == self.start + stride:
          jax.block_until_ready(losses)
          self.first_step_s = time.monotonic() - self.began
          bar.restart()
          waited, since, timed = 0.0, time.monotonic(), n
        if logs or last:
          jax.block_until_ready(losses)
          spent, times = time.monotonic() - since, {}
          if n > timed:
            times = {'time/step': spent / (n - timed), 'time/data': waited / spent}
            times |= monitor.speed(times['time/step'], setup.batch_size, compiled.flops, self.mesh)
          self.report(n, bar, times)
          waited, since, timed = 0.0, time.monotonic(), n
        if not self.alive():  # nothing is left to save
          return tree
        if setup.validation is not None and (n % how.eval_every == 0 or last):
          self.report(n, bar)
          began = time.monotonic()
          tree = self.evaluate(n, tree, bar)
          since += time.monotonic() - began
          bar.update(n, now=True)
        stop = stop_now()
        if n % how.save_every == 0 or last or stop:
          self.save(n, tree, prefetched.state, bar)
        bar.update(n)
        if stop:
          break
    self.checkpoints.wait()
    if stopped():
      raise Interrupted(f'{setup.name}: saved at step {n}; run the same command to go on.')
    return tree

  def step(self, states, compiled: CompiledStep, batch, timed):
    """One step of all members, name -> losses; with `timed` each update is awaited and timed."""
    batch, t = compiled.teacher_forward(batch)
    if timed:
      jax.block_until_ready((self.pending, batch, t))
    losses = {}
    for name in self.alive():
      began = time.monotonic()
      states[name], losses[name] = compiled.update(name, states[name], t, batch)
      if timed:
        jax.block_until_ready(losses[name])
        self.update_times.setdefault(name, []).append((time.monotonic() - began) / self.how.dispatch)
    return losses

  def alive(self):
    """Names of the members that have not failed."""
    return [name for name in self.setup.members if name not in self.failed]

  def report(self, n, bar, times=None):
    """Logs mean losses since the last report, and `times`; drops a member whose loss is not finite."""
    if not self.pending:
      return
    sums, self.pending = jax.device_get(self.pending), []
    for name in self.alive():
      record = {}
      for loss in sums[0][name]:
        pairs = [s[name][loss] for s in sums]
        total, count = (np.sum([np.asarray(p[i], np.float64) for p in pairs], 0) for i in (0, 1))
        record['grad_norm' if loss == 'grad_norm' else f'loss/{loss}'] = total / np.maximum(count, 1)
      record['loss/total'] = sum(v for k, v in record.items() if k.startswith('loss/'))
      if not all(np.isfinite(v).all() for v in record.values()):
        self.give_up(name, n, len(sums) * self.how.dispatch)
        continue
      if times:
        record |= times
        record |= {'time/update': self.update_times[name][-1]} if name in self.update_times else {}
      self.logs[name].write(n, record)
      self.note(bar, 'loss', name, record['loss/total'])

  def give_up(self, name, n, steps):
    """Drops a member of a cohort; an error elsewhere."""
    saved = self.checkpoints.newest()
    saved_message = 'nothing was saved yet' if saved is None else f'the checkpoint of step {saved} is good'
    if not self.setup.cohort:
      raise KdjaxError(
        f'{self.setup.name}: the loss is not finite in the {progress.counted(steps, "step")} up to {n} '
        f'({saved_message}). Lower the learning rate or the weight of a loss, or set clip.'
      )
    self.failed[name] = n
    progress.say(f'{self.setup.name}: {name} is given up at step {n}, its loss is not finite')

  def note(self, bar, key, name, values):
    """Shows a number beside the progress bar, averaged over members."""
    self.notes.setdefault(key, {})[name] = float(np.mean(values))
    means = {k: np.mean([v[m] for m in self.alive() if m in v]) for k, v in self.notes.items()}
    bar.note = ', '.join(f'{k} {v:.4f}' for k, v in means.items())

  def evaluate(self, n, tree, bar):
    """Evaluates all members on validation; returns the tree with the best variables of each."""
    task = self.setup.task
    for name in self.alive():
      member = self.setup.members[name]
      variables = member.evaluated(tree['state'][name])
      title = f'{name if len(self.setup.members) > 1 else self.setup.name}: validation'
      metrics = self.evaluators[member.model](variables, self.setup.validation, title).metrics
      self.logs[name].write(n, {f'eval/{k}': v for k, v in metrics.items()})
      key, higher = primary(task, metrics)
      score = metrics[key]
      self.note(bar, f'validation {key}', name, score)
      if self.how.select == 'best':
        sign = 1 if higher else -1
        tree['best'][name] = _better(tree['best'][name], variables, jnp.asarray(sign * score, jnp.float32))
    return tree

  def save(self, n, tree, data_state, bar):
    self.report(n, bar)  # only states with a finite loss are saved
    spent = time.monotonic() - self.began + self.spent
    data = {'batches': data_state, 'wall_time_s': spent, 'failed': self.failed}
    self.checkpoints.save(n, self.copy(tree), data)
