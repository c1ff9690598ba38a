"""The distillation step: the teacher's forward of a batch, and the student's update given its outputs.

The two are compiled apart, so that one forward serves any number of students, and an update is the
same program to the last bit whether the teacher's taps come from a live teacher or from a store.
A different training scheme forks this file; it does not add a flag to it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from kdjax.training import streams
from kdjax.types import Method, Model, Task, TrainState

STORED = 'stored/'  # what a batch brings along for a stored teacher alone
WHOLE = functools.partial(jax.grad, has_aux=True)


def averaged(average, new, decay: float | Callable, step):
  """The average of variables, a step later; `decay` is a number or `step -> number`."""
  return optax.incremental_update(new, average, 1 - (decay(step) if callable(decay) else decay))


def make_init(
  student: Model,
  method: Method,
  tx: optax.GradientTransformation,
  *,
  ema: bool = False,
  self_teacher: bool = False,
):
  """`init(seed, t, batch) -> TrainState`; call it inside one jit, so that no buffer is shared.

  The seed is a number, or u32 [2]: of the weights and of the steps (`streams.seeds`).
  With `self_teacher` the student's taps stand in for `t`, for an update of `from_itself`.
  """

  def init(seed, t, batch):
    rngs, steps = streams.initial(seed, 3)
    stats = dict(student.init(rngs[0], batch))
    params = {'student': stats.pop('params')}
    s, _ = student.apply({'params': params['student'], **stats}, batch, train=True, rng=rngs[1])
    params['method'], method_stats = method.init(rngs[2], s, s if self_teacher else t, batch)
    variables = {'params': params['student'], **stats}
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      seed=steps,
      params=params,
      stats={'student': stats, 'method': method_stats},
      opt_state=tx.init(params),
      ema=jax.tree.map(jnp.copy, variables) if ema else {},
    )

  return init


def make_update(
  student: Model,
  task: Task,
  method: Method,
  tx,
  *,
  task_weight=1.0,
  ema=0.0,
  axis=None,
  gradient: Callable = WHOLE,
):
  """`update(state, t, batch) -> (state, losses)`, the student's update given the teacher's taps.

  `ema` is the decay of the average of the student's variables, or `step -> decay`. Every term is the
  mean sum / count over the whole batch, over all devices of `axis` too. `gradient` differentiates the
  objective, at once or as `accumulate.in_parts` does. The losses come back as (sum, count), beside the
  global norm of the gradient.
  """
  psum_over_devices = (lambda x: jax.lax.psum(x, axis)) if axis else (lambda x: x)

  def pmean_floats(x):
    return jax.lax.pmean(x, axis) if axis and jnp.issubdtype(x.dtype, jnp.floating) else x

  def update(state, t, batch):
    def objective(params, stats, t, batch, rng, counts=None, part=None):
      rng_model, rng_method = jax.random.split(rng)  # a method draws by 'id', however a batch is split
      if part is not None:
        rng_model, _ = jax.random.split(jax.random.fold_in(rng, part))
      if axis:  # no two devices drop the same units
        rng_model = jax.random.fold_in(rng_model, jax.lax.axis_index(axis))
      variables = {'params': params['student'], **stats['student']}
      s, student_stats = student.apply(variables, batch, train=True, rng=rng_model)
      terms, method_stats = method.loss(
        params['method'], stats['method'], s, t, batch, step=state.step, rng=rng_method
      )
      total, count = task.loss(s, batch)
      terms = {'task': (task_weight * total, count), **terms}
      counts = counts or {name: count for name, (_, count) in terms.items()}
      loss = sum(
        total / jnp.maximum(psum_over_devices(counts[name]), 1) for name, (total, _) in terms.items()
      )
      return loss, (terms, {'student': student_stats, 'method': method_stats})

    rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
    grads, (terms, stats) = gradient(objective)(state.params, state.stats, t, batch, rng)
    grads = psum_over_devices(grads)
    stats = jax.tree.map(pmean_floats, stats)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params: dict = optax.apply_updates(state.params, updates)  # pyright: ignore[reportAssignmentType]
    new_average = {}
    if ema:
      variables = {'params': params['student'], **stats['student']}
      new_average = averaged(state.ema, variables, ema, state.step)
    state = state.replace(
      step=state.step + 1, params=params, stats=stats, opt_state=opt_state, ema=new_average
    )
    return state, psum_over_devices(terms) | {'grad_norm': (optax.global_norm(grads), jnp.ones(()))}

  return update


def from_itself(update: Callable, student: Model) -> Callable:
  """`update` with the student's own average, `state.ema`, as its teacher."""

  def self_taught(state, t, batch):
    t_, _ = student.apply(state.ema, batch, train=False)
    return update(state, jax.lax.stop_gradient(t_), batch)

  return self_taught


def make_teacher_forward(teacher: Model | None, augment: Callable, wanted: frozenset | None = None):
  """`teacher_forward(teacher_variables, batch) -> (batch, t)`: the augmented batch, and its taps.

  In evaluation mode, outside any gradient.

  Args:
    teacher: None gives no taps.
    augment: augments a batch.
    wanted: the taps that anybody reads, the others are not computed; None for all.
  """

  def teacher_forward(variables, batch):
    batch = augment(batch)
    if teacher is None:
      return batch, {}
    t = jax.lax.stop_gradient(teacher.apply(variables, batch, train=False)[0])
    batch = {k: v for k, v in batch.items() if not k.startswith(STORED)}
    return batch, {k: v for k, v in t.items() if wanted is None or k in wanted}

  return teacher_forward


def vmap_seeds(function: Callable) -> Callable:
  """`function(state, t, batch)` for states stacked on a leading axis in one program, the rest shared."""
  return jax.vmap(function, in_axes=(0, None, None))


def loop_over_seeds(sharding: jax.sharding.Sharding) -> Callable:
  """Makes of a compiled `function(state, t, batch)` what `vmap_seeds` makes, by calling it for each seed.

  For CPU, where convolution gradients batched over kernels leave XLA's fast path, and where one
  program for all seeds takes as many times longer to compile. A seed is to the last bit what it is alone.
  """
  select = jax.jit(lambda tree, i: jax.tree.map(lambda x: x[i], tree), out_shardings=sharding)
  stack = jax.jit(lambda each: jax.tree.map(lambda *x: jnp.stack(x), *each), out_shardings=sharding)

  def over_seeds(function: Callable) -> Callable:
    def looped(states, t, batch):
      n = len(jax.tree.leaves(states)[0])
      return stack([function(select(states, i), t, batch) for i in range(n)])

    return looped

  return over_seeds
