"""One stage's training: of one student, or of a cohort that shares the teacher's look at each batch."""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from kdjax import (
  checkpoint,
  data_free,
  dispatch,
  dot,
  finite,
  loop,
  memory,
  methods,
  on_policy,
  parallel,
  pipeline,
  progress,
  start,
  taps,
)
from kdjax import step as steps_
from kdjax.errors import KdjaxError
from kdjax.setup import Setup


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
  held = setup.source.arrays if isinstance(setup.source, pipeline.Columns) and not setup.reader else None
  resident = dispatch.lives_on_device(how.resident, held, memory.free(mesh))
  batches = pipeline.train_batches(setup.source, setup.batch_size, seed, setup.reader, rows_only=resident)
  data = held if resident else {}
  look, updates, states = compile_all(setup, how, mesh, first_batch(setup, mesh), data)
  keeper = checkpoint.Checkpoints(folder / 'checkpoints', how.keep)
  tree = {'state': states, 'best': loop.no_best(setup, how, states)}
  spent, failed, like = 0.0, {}, jax.tree.map(_abstract, tree)
  del states
  if found := keeper.restore(like):
    tree, spent, failed = found.tree, found.data['wall_time_s'], found.data['failed']
    batches.set_state(found.data['batches'])
    progress.say(f'{setup.name}: going on from step {found.step} of {setup.steps}')
  run = loop.Run(setup, how, mesh, keeper, found.step if found else 0, failed, began, spent)
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


def compile_all(
  setup: Setup, how: loop.Loop, mesh: jax.sharding.Mesh, batch: Mapping, data: Mapping = {}
) -> tuple[Callable, dict[str, Callable], dict[str, Any]]:
  """`look(batch) -> (batch, t)`, and `update(state, t, batch)` and the first state of each member.

  Both take `how.dispatch` batches, stacked where these are several; where there are `data`, which then live
  on the device, a batch is the rows of it.
  """
  axis = parallel.AXIS if how.parallel == 'pmap' else None
  functions = {name: _functions(setup, member, axis) for name, member in setup.members.items()}
  names = wanted(setup, batch) if setup.wanted is None else setup.wanted
  look = steps_.make_look(setup.teacher, setup.view, names)
  seen, t = jax.eval_shape(look, setup.teacher_variables, batch)
  needs = _needs(setup, how, mesh, {name: init for name, (init, _) in functions.items()}, (batch, seen, t))
  needs |= {'for the training data': memory.size(data)} if data else {}
  fits = functools.partial(memory.check, setup.name, there=memory.free(mesh), shrink=_shrink(setup, how))
  fits(needs)
  teacher_variables = jax.device_put(setup.teacher_variables, parallel.everywhere(mesh))  # once
  every = parallel.compile_look(look, mesh, (seen, t), setup.batch_size)
  seen, taught = every(teacher_variables, batch)
  over = parallel.over_devices((seen, taught), mesh, setup.batch_size, how.dispatch)
  ahead = dispatch.stacked((seen, taught), how.dispatch, over)
  updates, states, whole = {}, {}, parallel.everywhere(mesh)
  seeds = jax.device_put(jnp.array(setup.seeds, jnp.uint32), whole)
  apart = steps_.one_by_one(whole) if jax.default_backend() == 'cpu' else None
  with progress.bar(f'{setup.name}: compiling', len(functions), 'member') as shown:
    for i, (name, (init, update)) in enumerate(functions.items(), 1):
      member = setup.members[name]
      heard = teacher_variables if member.asks() else taught
      if not apart:
        init, update = steps_.over_seeds(init), steps_.over_seeds(update)
      init = jax.jit(init, out_shardings=whole)
      states[name] = (apart(init) if apart else init)(seeds, heard, seen)
      related = methods.related(member.method, states[name].params['method'], states[name].stats['method'])
      update = dispatch.update_over(update, how.dispatch, member.asks())
      update = parallel.compile_update(update, mesh, how.parallel, related, t, setup.batch_size)
      if member.start:
        states[name] = start.begin(whole)(states[name], member.start)
      one = init(seeds[0], heard, seen) if apart else states[name]
      update = update.lower(one, heard if member.asks() else ahead[1], ahead[0]).compile()
      fits(needs | memory.on_the_way(update))
      update = apart(update) if apart else update
      updates[name] = update if not member.asks() else lambda s, t, b, f=update: f(s, teacher_variables, b)
      shown.update(i)
  held = teacher_variables
  if data:
    look, held = dispatch.from_rows(look), (held, jax.device_put(dict(data), whole))
  if data or how.dispatch > 1:
    look = dispatch.look_over(look, how.dispatch)
    every = parallel.compile_look(look, mesh, (seen, taught), setup.batch_size, how.dispatch)
  return (lambda batch: every(held, batch)), updates, states


def _needs(setup, how, mesh, inits, shapes):
  """What for -> the bytes of it that a device has to hold, but for what a step makes on its way."""
  batch, seen, t = shapes
  states, best = 0, 0
  for name, member in setup.members.items():
    state = jax.eval_shape(inits[name], 0, setup.teacher_variables if member.asks() else t, seen)
    states += len(setup.seeds) * memory.size(state)
    best += len(setup.seeds) * memory.size(loop.variables(member, state)) * (how.select == 'best')
  return {
    'for weights, optimisers and the best so far': states + best,
    'for a copy of these while it is saved': states + best,
    "for the teacher's weights": memory.size(setup.teacher_variables),
    "for batches and the teacher's answers": how.dispatch * memory.size((batch, batch, seen, t)) / mesh.size,
  }


def _shrink(setup, how):
  """The keys that decide how much memory is needed, with their values."""
  train, member = setup.name.replace('baseline', 'student') + '.train', next(iter(setup.members.values()))
  keys = {
    'run.together': len(setup.members),
    'seeds': len(setup.seeds),
    f'{train}.batch_size': setup.batch_size,
    'run.dispatch': how.dispatch,
  }
  lower = [f'{key} ({value})' for key, value in keys.items() if value > 1]
  raised = [f'{train}.accumulate ({member.parts})'] + ([] if member.remat else [f'{train}.remat (False)'])
  return f'lower {", ".join(lower)}, or raise {" or ".join(raised)}'


def wanted(setup: Setup, batch: Mapping) -> frozenset:
  """Names of the teacher's taps that any member reads."""
  if setup.teacher is None:
    return frozenset()
  seen, t = jax.eval_shape(steps_.make_look(setup.teacher, setup.view), setup.teacher_variables, batch)
  return frozenset().union(*(_read(setup, member, t, seen) for member in setup.members.values()))


def _functions(setup, member, axis=None):
  """`init(seed, t, batch) -> state` and `update(state, t, batch)` of one member, for one seed."""
  decay = member.decay()
  if member.maker:
    if axis or member.parts > 1 or member.remat:
      raise KdjaxError("a generator runs under run.parallel='jit' alone, with no accumulate and no remat.")
    parts = member.model, setup.teacher, member.maker, member.method, member.tx
    place = functools.partial(parallel.spread, mesh=parallel.make_mesh())
    unroll = jax.default_backend() == 'cpu'
    update = data_free.make_update(*parts, ema=decay, unroll=unroll, place=place)
    return data_free.make_init(*parts, ema=bool(decay)), update
  init = steps_.make_init(member.model, member.method, member.tx, ema=bool(decay), own=member.own)
  shared = {'task_weight': member.task_weight}
  if isinstance(member.tx, dot.Dot):
    make_update = dot.make_update
    if decay or axis or member.parts > 1:
      raise KdjaxError(
        "the optimiser 'dot' keeps no average of the weights, accumulates nothing and runs under 'jit' alone."
      )
  else:
    make_update, shared = steps_.make_update, shared | {'ema': decay, 'axis': axis}
  if member.parts > 1:
    shared['gradient'] = memory.in_parts(member.parts)
  model = memory.remat(member.model) if member.remat else member.model
  update = make_update(model, on_policy.of_labels(setup.task), member.method, member.tx, **shared)
  if member.own:
    update = steps_.from_itself(update, member.model)
  if member.writer:
    init, update = on_policy.asking(init, update, member.model, setup.teacher, member.writer)
  return init, update


def _read(setup, member, t, batch):
  """Names of the teacher's taps that a member reads."""
  if member.asks():
    return set()
  (init, update), seen = _functions(setup, member._replace(parts=1)), set()

  def all_of_it(t, batch):
    state = init(0, taps.Noted(t, seen), batch)
    return update(state, taps.Noted(t, seen), batch)

  jax.eval_shape(all_of_it, t, batch)
  return seen
