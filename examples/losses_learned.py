"""A loss that learns something itself, FitNet's projection, in a jitted step: its weights are trained too."""

import jax
import jax.numpy as jnp
import optax

import kdjax

fitnet, tx = kdjax.methods.fitnet(student='hidden', teacher='hidden'), optax.adam(1e-2)
x = jax.random.normal(jax.random.key(0), (64, 10))
teacher, w = {'hidden': jnp.tanh(x @ jax.random.normal(jax.random.key(1), (10, 32)))}, jnp.eye(10, 8)
learned, stats = fitnet.init(jax.random.key(2), {'hidden': x @ w}, teacher, {})
params = {'student': w, 'fitnet': learned}
state = tx.init(params)


@jax.jit
def step(params, state, stats, i):
  def loss(params):
    taps = {'hidden': x @ params['student']}
    (total, count), new = fitnet.loss(
      params['fitnet'], stats, taps, teacher, {}, step=i, rng=jax.random.key(i)
    )
    return total / count, new

  (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  updates, state = tx.update(gradient, state)
  return optax.apply_updates(params, updates), state, new, value


for i in range(300):
  params, state, stats, value = step(params, state, stats, i)
print(f'FitNet loss {value:.4f}')
