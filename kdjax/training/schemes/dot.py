"""SGD with a momentum of its own for the distillation gradient (Zhao et al., 2307.08436, DOT).

The optimizer, and a fork of `step.make_update` that passes it the two gradients separately.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kdjax.options import Decay, NonNegative, Share
from kdjax.training import gains
from kdjax.types import Array, Method, Model, Task


class DotState(NamedTuple):
  count: Array  # i32 []
  task: Any  # the two momentum buffers, each like the params
  kd: Any


class Dot(NamedTuple):
  """An optimizer like optax's, of two gradients.

  Attributes:
    init: `params -> DotState`.
    update: `(grads_task, grads_kd, state, params) -> (updates, state)`, for optax.apply_updates.
  """

  init: Callable
  update: Callable


def dot(
  learning_rate: float | Callable,
  *,
  momentum: Decay = 0.9,
  delta: Share = 0.075,
  weight_decay: NonNegative = 0.0,
  released: bool = False,
) -> Dot:
  """The distillation-oriented trainer (arXiv 2307.08436, algorithm 1).

  -rate · (task buffer + kd buffer), where buffer = m · buffer + gradient with m = momentum
  - delta for the task's gradient, which the weight decay is added to, and m = momentum + delta
  for that of distillation. A parameter that one loss alone reaches, None in the other gradient,
  has m = momentum, and the weight decay in its one buffer.

  Args:
    learning_rate: a number, or `step -> number`.
    momentum: the mean of the two.
    delta: half their difference; 0.075 on CIFAR-100, 0.09 on ImageNet.
    weight_decay: times the parameter, added to the gradient. Unlike in kdjax.training.optimizers, biases and
      scales decay too, as in mdistiller.
    released: as mdistiller does it, a parameter that distillation alone reaches does not decay
      in the first step.
  """

  def init(params):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return DotState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros))

  def update(grads_task, grads_kd, state, params):
    rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

    def one(p, g_task, g_kd, task, kd):
      difference = delta if g_task is not None and g_kd is not None else 0.0
      decay = weight_decay * p
      if g_task is not None:
        task = (momentum - difference) * task + g_task + decay
      if g_kd is not None:
        if g_task is not None:
          decay = 0.0
        elif released:
          decay = jnp.where(state.count > 0, decay, 0)
        kd = (momentum + difference) * kd + g_kd + decay
      return (-rate * (task + kd)).astype(p.dtype), task, kd

    leaves, structure = jax.tree.flatten(params)
    others = (structure.flatten_up_to(x) for x in (grads_task, grads_kd, state.task, state.kd))
    updated = [one(*x) for x in zip(leaves, *others, strict=True)]
    updates, task, kd = (structure.unflatten(x) for x in zip(*updated, strict=True))
    return updates, DotState(state.count + 1, task, kd)

  return Dot(init, update)


def make_update(student: Model, task: Task, method: Method, tx: Dot, *, task_weight=1.0):
  """`update(state, t, batch) -> (state, losses)`, as `step.make_update` gives it, with two backward passes.

  The method's parameters have the gradient of distillation alone; with no method this is plain SGD.
  Deviation: a student parameter that one loss does not reach has a gradient of 0 from it, where the paper's
  has none.
  """

  def update(state, t, batch):
    rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
    rng_model, rng_method = jax.random.split(rng)

    def objectives(params):
      variables = {'params': params['student'], **state.stats['student']}
      s, student_stats = student.apply(variables, batch, train=True, rng=rng_model)
      terms, method_stats = method.loss(
        params['method'], state.stats['method'], s, t, batch, step=state.step, rng=rng_method
      )
      total, count = task.loss(s, batch)
      task_term = task_weight * total, count
      distillation = sum((total / jnp.maximum(count, 1) for total, count in terms.values()), jnp.zeros(()))
      losses = task_term[0] / jnp.maximum(count, 1), distillation
      return losses, ({'task': task_term, **terms}, {'student': student_stats, 'method': method_stats})

    _, vjp, (terms, stats) = jax.vjp(objectives, state.params, has_aux=True)
    one, zero = jnp.ones(()), jnp.zeros(())
    (grads_task,), (grads_kd,) = vjp((one, zero)), vjp((zero, one))
    grads_task, grads_kd = (gains.scaled(g, method, stats) for g in (grads_task, grads_kd))
    norm = optax.global_norm(jax.tree.map(jnp.add, grads_task, grads_kd))
    grads_task = grads_task | {'method': jax.tree.map(lambda _: None, grads_task['method'])}
    if set(terms) == {'task'}:
      grads_kd = jax.tree.map(lambda _: None, grads_kd)
    updates, opt_state = tx.update(grads_task, grads_kd, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(step=state.step + 1, params=params, stats=stats, opt_state=opt_state)
    return state, terms | {'grad_norm': (norm, one)}

  return update
