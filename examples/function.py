"""A teacher that is a function: anything that JAX can trace; `kdjax.host(function)` for anything else."""

import jax.numpy as jnp
from nets import Net
from sample_data import COLOURS, RGB, pictures

import kdjax


def nearest_colour(image):  # [B, H, W, 3] in [0, 1]
  distance = jnp.square(image[..., None, :] - jnp.array(RGB) / 255).sum(-1)
  return -100 * distance.min((1, 2))


train, test = pictures('train', 2000), pictures('test', 500)
settings = {'labels': 0.05, 'steps': 300, 'seeds': 3, 'learning_rate': 1e-2, 'classes': COLOURS}
kdjax.distill(nearest_colour, Net(8), train, test, workdir='runs/function', **settings)
