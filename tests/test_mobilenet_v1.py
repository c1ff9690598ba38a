"""MobileNet: its size, its maps, and a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import registry
from test_cifar_zoo import quick, size


def test_size_and_maps():
  net = registry.make('models', 'mobilenet_v1', {'num_classes': 1000})
  batch = {'image': jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)}
  taps, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), batch)
  assert size(variables) == 4_231_976  # the 4.2 million of 1704.04861
  maps = {
    'stem': (112, 32),
    'stage1': (56, 128),
    'stage2': (28, 256),
    'stage3': (14, 512),
    'stage4': (7, 1024),
  }
  assert {k: (taps[k].shape[1], taps[k].shape[3]) for k in maps} == maps
  assert all(taps[f'{k}_before'].shape == taps[k].shape for k in maps if k != 'stem')
  assert taps['embed'].shape == (1, 1024) and taps['logits'].shape == (1, 1000) and len(taps) == 11
  encoder = registry.make('models', 'mobilenet_v1', {'width': 0.25})
  taps, variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), batch)
  assert 'logits' not in taps and 'head' not in variables['params'] and taps['embed'].shape == (1, 256)


@pytest.mark.whole
def test_a_step_is_finite():
  rng, label = np.random.default_rng(0), jnp.array([0, 2])
  net = registry.make('models', 'mobilenet_v1', {'width': 0.0625, 'num_classes': 3})
  batch = {'image': rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)}
  like = jax.eval_shape(net.init, jax.random.key(0), batch)
  variables = jax.tree.map(lambda x: rng.uniform(-0.5, 1, x.shape).astype(np.float32), like)

  def step(variables):
    def loss(params):
      taps, stats = net.apply(variables | {'params': params}, batch, train=True, mutable=['batch_stats'])
      return -jax.nn.log_softmax(taps['logits'])[jnp.arange(2), label].mean(), stats

    return jax.grad(loss, has_aux=True)(variables['params'])

  grads, new = quick(step, variables)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((grads, new)))
  assert np.abs(grads['head']['linear']['kernel']).max() > 0 < np.abs(grads['stem']['kernel']).max()
  old = jax.tree.leaves(variables['batch_stats'])
  assert all((a != b).any() for a, b in zip(old, jax.tree.leaves(new['batch_stats']), strict=True))
