"""Data-free distillation: a generator makes the images that the student is trained on.

A fork of `step`, with the same state, randomness and losses. A step is one of the generator and any number of
the student. Of a batch only the size is used, and `t` are the teacher's variables, not taps.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from kdjax.training import streams
from kdjax.training.step import update_ema
from kdjax.types import GeneratorLoss, Method, Model, TrainState


class ImageGenerator(NamedTuple):
  """A generator of images.

  Attributes:
    model: from the input 'noise' [B, Z] to the tap 'image' [B, H, W, C].
    noise: Z.
    loss: of its training.
    tx: its optimizer.
  """

  model: Model
  noise: int
  loss: GeneratorLoss
  tx: optax.GradientTransformation


def as_batch(image):
  """Images [B, H, W, C] as a batch without labels."""
  n = image.shape[0]
  return {'image': image, 'mask': jnp.ones(n), 'label': jnp.full(n, -1, jnp.int32)}


def make_generate(teacher: Model, image_generator: ImageGenerator, place: Callable = lambda z: z):
  """`generate(variables, teacher_variables, rng, n) -> (batch, t, stats)`: n images, and the teacher's taps.

  The generator is in training mode, the teacher in evaluation mode.
  """

  def generate(variables, teacher_variables, rng, n):
    z = place(jax.random.normal(rng, (n, image_generator.noise)))
    outputs, stats = image_generator.model.apply(variables, {'noise': z}, train=True)
    batch = as_batch(outputs['image'])
    return batch, teacher.apply(teacher_variables, batch, train=False)[0], stats

  return generate


def _size(batch):
  """How many examples a batch has."""
  return jax.tree.leaves(batch)[0].shape[0]


def make_init(
  student: Model,
  teacher: Model,
  image_generator: ImageGenerator,
  method: Method,
  tx: optax.GradientTransformation,
  *,
  ema: bool = False,
):
  """`init(seed, teacher_variables, batch) -> TrainState`, whose params and stats have 'generator' too.

  The student has the same initial weights as in `step.make_init` with the same seed.
  """
  generate = make_generate(teacher, image_generator)

  def init(seed, teacher_variables, batch):
    rngs, steps = streams.initial(seed, 3)
    rng_student, rng_generator, rng_noise = jax.random.split(rngs[1], 3)
    generated = image_generator.model.init(
      rng_generator, {'noise': jnp.zeros((_size(batch), image_generator.noise))}
    )
    fake, t, _ = generate(generated, teacher_variables, rng_noise, _size(batch))
    variables = student.init(rngs[0], fake)
    s, _ = student.apply(variables, fake, train=True, rng=rng_student)
    stats = {'student': dict(variables), 'generator': dict(generated)}
    params = {name: stats[name].pop('params') for name in stats}
    params['method'], stats['method'] = method.init(rngs[2], s, jax.lax.stop_gradient(t), fake)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      seed=steps,
      params=params,
      stats=stats,
      opt_state={
        'student': tx.init(without(params, 'generator')),
        'generator': image_generator.tx.init(params['generator']),
      },
      ema=jax.tree.map(jnp.copy, variables) if ema else {},
    )

  return init


def without(tree, name):
  return {k: v for k, v in tree.items() if k != name}


def mean(terms):
  """Σ over the terms of sum / count."""
  return sum(total / jnp.maximum(count, 1) for total, count in terms.values())


def make_learn(student: Model, method: Method, tx):
  """`learn(params, stats, opt_state, batch, t, step, rng) -> (params, stats, opt_state, losses)`.

  One step of the student and its method's parameters, on a generated batch.
  """

  def learn(params, stats, opt_state, batch, t, step, rng):
    rng_model, rng_method = jax.random.split(rng)
    batch, t = jax.lax.stop_gradient((batch, t))

    def objective(params):
      variables = {'params': params['student'], **stats['student']}
      s, student_stats = student.apply(variables, batch, train=True, rng=rng_model)
      terms, method_stats = method.loss(
        params['method'], stats['method'], s, t, batch, step=step, rng=rng_method
      )
      return mean(terms), (terms, {'student': student_stats, 'method': method_stats})

    grads, (terms, stats) = jax.grad(objective, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    terms = terms | {'grad_norm': (optax.global_norm(grads), jnp.ones(()))}
    return optax.apply_updates(params, updates), stats, opt_state, terms

  return learn


def make_update(
  student: Model,
  teacher: Model,
  image_generator: ImageGenerator,
  method: Method,
  tx: optax.GradientTransformation,
  *,
  ema: float | Callable = 0.0,
  unroll: bool = True,
  place: Callable = lambda z: z,
):
  """`update(state, teacher_variables, batch) -> (state, losses)`: the generator's step, then the student's.

  In the generator's step the student is in training mode, and its new statistics are dropped.
  The losses come back as (sum, count), summed over the student's steps, beside the global norm of the
  student's gradient; those of the generator are called 'generator/...'.

  Args:
    ema: decay of the average of the student's variables, once an update, or `step -> decay`.
    unroll: whether the student's steps are unrolled, for XLA's fast path on CPU; a loop compiles faster.
    place: spreads the noise [B, Z] over the devices.
  """
  generate = make_generate(teacher, image_generator, place)
  student_step = make_learn(student, method, tx)

  def generator_step(state, teacher_variables, rng, n):
    """One step of the generator: (params, stats, opt_state, losses, (generated batch, t))."""
    rng_noise, rng_model = jax.random.split(rng)
    variables = {'params': state.params['student'], **state.stats['student']}

    def objective(params):
      weights = {'params': params, **state.stats['generator']}
      fake, t, stats = generate(weights, teacher_variables, rng_noise, n)
      s, _ = student.apply(variables, fake, train=True, rng=rng_model)
      terms = image_generator.loss.loss(s, t, step=state.step)
      return mean(terms), (terms, stats, (fake, t))

    params = state.params['generator']
    grads, (terms, stats, generated) = jax.grad(objective, has_aux=True)(params)
    updates, opt_state = image_generator.tx.update(grads, state.opt_state['generator'], params)
    params = optax.apply_updates(params, updates)
    if image_generator.loss.images == 'noise':
      generated = generate({'params': params, **stats}, teacher_variables, rng_noise, n)[:2]
    return params, stats, opt_state, {f'generator/{k}': v for k, v in terms.items()}, generated

  def update(state, teacher_variables, batch):
    rng_create, rng_learn = jax.random.split(jax.random.fold_in(jax.random.key(state.seed), state.step))
    n = _size(batch)
    params, stats, opt_state, generator_losses, generated = generator_step(
      state, teacher_variables, rng_create, n
    )

    def step(carry, rng):
      rng_noise, rng = jax.random.split(rng)
      fake, t = generated
      if image_generator.loss.images == 'fresh':
        fake, t, _ = generate({'params': params, **stats}, teacher_variables, rng_noise, n)
      *carry, terms = student_step(*carry, fake, t, state.step, rng)
      return tuple(carry), terms

    start = without(state.params, 'generator'), without(state.stats, 'generator'), state.opt_state['student']
    rngs = jax.random.split(rng_learn, image_generator.loss.student_steps)
    (student_params, student_stats, student_opt_state), terms = jax.lax.scan(step, start, rngs, unroll=unroll)
    new_average = {}
    if ema:
      variables = {'params': student_params['student'], **student_stats['student']}
      new_average = update_ema(state.ema, variables, ema, state.step)
    state = state.replace(
      step=state.step + 1,
      params={**student_params, 'generator': params},
      stats={**student_stats, 'generator': stats},
      opt_state={'student': student_opt_state, 'generator': opt_state},
      ema=new_average,
    )
    return state, jax.tree.map(lambda x: x.sum(0), terms) | generator_losses

  return update
