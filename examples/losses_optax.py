"""The losses alone, in a training loop of your own with optax: KD on bare logits [B, C]."""

import jax
import jax.numpy as jnp
import optax

import kdjax

kd, tx = kdjax.methods.kd(temperature=4.0), optax.adam(1e-2)
x = jax.random.normal(jax.random.key(0), (64, 10))
teacher_logits, w = 3 * x, jnp.zeros((10, 10))
state = tx.init(w)
for _ in range(300):
  loss, gradient = jax.value_and_grad(lambda w: kd(x @ w, teacher_logits))(w)
  updates, state = tx.update(gradient, state)
  w = optax.apply_updates(w, updates)
print(f'KD loss {loss:.4f}')
