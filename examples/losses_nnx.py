"""The losses alone, in a loop of NNX: the labels' loss and DKD, which reads the labels too."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import kdjax

x = jax.random.normal(jax.random.key(0), (64, 10))
teacher_logits, labels = 3 * x, jnp.argmax(x, -1)
model, dkd = nnx.Linear(10, 10, rngs=nnx.Rngs(0)), kdjax.methods.dkd(temperature=4.0)
optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)


@nnx.jit
def step(model, optimizer):
  def loss(model):
    logits = model(x)
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return ce + dkd(logits, teacher_logits, {'label': labels})

  value, gradient = nnx.value_and_grad(loss)(model)
  optimizer.update(model, gradient)
  return value


for _ in range(300):
  value = step(model, optimizer)
print(f'CE and DKD loss {value:.4f}')
