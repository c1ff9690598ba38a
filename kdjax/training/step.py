"""The distillation step: a teacher forward, and the student's update given the teacher's taps.

The two are compiled separately. So one teacher forward serves any number of students, and the update is the
same program whether the taps come from a live teacher or from a store.
Training schemes that change the update lie in `schemes/`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdjax.training import gains, streams
from kdjax.types import Method, Model, Task, TrainState

STORED = 'stored/'  # prefix of the batch keys that a stored teacher decodes
GRAD = functools.partial(jax.grad, has_aux=True)


def update_ema(average, new, decay: float | Callable, step):
  """The moving average of variables after a step; `decay` is a number or `step -> number`."""
  moved = optax.incremental_update(new, average, 1 - (decay(step) if callable(decay) else decay))
  # Masks and indices have no mean.
  return jax.tree.map(lambda m, x: m if jnp.issubdtype(x.dtype, jnp.floating) else x, moved, new)


def make_init(
  student: Model,
  method: Method,
  tx: optax.GradientTransformation,
  *,
  ema: bool = False,
  self_teacher: bool = False,
):
  """`init(seed, t, batch) -> TrainState`; call it inside jit, so that no two arrays share a buffer.

  The seed is a number, or u32 [2] of `streams.seeds`: one for the weights, one for the steps.

  Args:
    student: the model.
    method: its `init` gets the taps of both models.
    tx: the optimizer, of the parameters of student and method.
    ema: whether the state has a moving average of the variables.
    self_teacher: whether the student's taps take the place of `t`, as for `with_self_teacher`.
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
  gradient: Callable = GRAD,
):
  """`update(state, t, batch) -> (state, losses)`: one step of the student, given the teacher's taps `t`.

  The objective is the sum over the terms, of the task and of each method, of sum / count over the whole
  batch. The losses are returned as name -> (sum, count), with 'grad_norm', the gradient's global norm.

  Args:
    student: the model.
    task: its loss is the term 'task'.
    method: its losses are the other terms.
    tx: the optimizer.
    task_weight: of the task's loss.
    ema: decay of the moving average of the student's variables, or `step -> decay`; 0 for none.
    axis: the mesh axis of a `shard_map`, over which sums and counts are added; None under 'jit'.
    gradient: differentiates the objective: of a batch at once, or `accumulate.in_parts`.
  """
  psum_over_devices = (lambda x: jax.lax.psum(x, axis)) if axis else (lambda x: x)

  def pmean_floats(x):
    return jax.lax.pmean(x, axis) if axis and jnp.issubdtype(x.dtype, jnp.floating) else x

  def update(state, t, batch):
    # `counts`, of the whole batch, and `part`, which of its parts this is, are set by `accumulate.in_parts`.
    def objective(params, stats, t, batch, rng, counts=None, part=None):
      rng_model, rng_method = jax.random.split(rng)  # a method draws by 'id', and so the same in any part
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
    grads = gains.scaled(grads, method, stats)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params: dict = optax.apply_updates(state.params, updates)  # pyright: ignore[reportAssignmentType]
    new_average = {}
    if ema:
      variables = {'params': params['student'], **stats['student']}
      new_average = update_ema(state.ema, variables, ema, state.step)
    state = state.replace(
      step=state.step + 1, params=params, stats=stats, opt_state=opt_state, ema=new_average
    )
    return state, psum_over_devices(terms) | {'grad_norm': (optax.global_norm(grads), jnp.ones(()))}

  return update


def with_self_teacher(update: Callable, student: Model) -> Callable:
  """`update` with the student's averaged variables, `state.ema`, as its teacher."""

  def self_taught(state, t, batch):
    own_taps, _ = student.apply(state.ema, batch, train=False)
    return update(state, jax.lax.stop_gradient(own_taps), batch)

  return self_taught


def make_teacher_forward(teacher: Model | None, augment: Callable, wanted: frozenset | None = None):
  """`teacher_forward(teacher_variables, batch) -> (augmented_batch, t)`.

  Augments the batch, also where there is no teacher, and runs the teacher on it: in evaluation mode, with no
  gradient through it.

  Args:
    teacher: None for none; the taps are then {}.
    augment: augments a batch.
    wanted: names of the taps to compute; None for all.
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
  """`function(state, t, batch)` vectorized over states that are stacked on a leading axis."""
  return jax.vmap(function, in_axes=(0, None, None))


def loop_over_seeds(one: Any, stacked: Any) -> Callable:
  """A transformation as `vmap_seeds`, which calls a compiled `function(state, t, batch)` once a seed.

  For CPU: there convolution gradients batched over kernels leave XLA's fast path, and a program of all seeds
  takes longer to compile. A seed's result is to the last bit that of training it alone.

  Args:
    one: the shardings of the state of one seed.
    stacked: those of what the function gives, of all seeds.
  """
  select = jax.jit(lambda tree, i: jax.tree.map(lambda x: x[i], tree), out_shardings=one)
  stack = jax.jit(lambda each: jax.tree.map(lambda *x: jnp.stack(x), *each), out_shardings=stacked)

  def over_seeds(function: Callable) -> Callable:
    def looped(states, t, batch):
      n = len(jax.tree.leaves(states)[0])
      return stack([function(select(states, i), t, batch) for i in range(n)])

    return looped

  return over_seeds
