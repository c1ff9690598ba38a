"""Maxout networks against a plain writing of them, and the FitNets of MNIST that are made of them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.models.vision.maxout import pooled
from kdjax.paper_tables.table import load

TABLE = str(Path(__file__).parents[1] / 'configs' / 'tables' / 'fitnets_mnist.py')
SMALL = {
  'channels': (3, 2),
  'kernel': (3, 3),
  'pad': (1, 2),
  'pool': (3, 2),
  'stride': (2, 2),
  'pieces': 3,
  'num_classes': 4,
}


def windows(x, size, stride):
  """Max over windows that may hang over the end, in loops over their places."""
  places = [range(0, max(n - size + stride - 1, 0) // stride * stride + 1, stride) for n in x.shape[1:3]]
  rows = [jnp.stack([x[:, i : i + size, j : j + size].max((1, 2)) for j in places[1]], 1) for i in places[0]]
  return jnp.stack(rows, 1)


def plainly(params, x):
  """`SMALL` as a sum over the kernel's places, and a max over pieces and windows."""
  taps = {}
  for i, (channels, kernel, pad, pool, stride) in enumerate(
    zip(*(SMALL[k] for k in ('channels', 'kernel', 'pad', 'pool', 'stride')), strict=True), 1
  ):
    own = params[f'hidden{i}']['conv']
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    h, w = (n - kernel + 1 for n in x.shape[1:3])
    places = ((a, b) for a in range(kernel) for b in range(kernel))
    z = own['bias'] + sum(x[:, a : a + h, b : b + w] @ own['kernel'][a, b] for a, b in places)
    pieces = [z[..., p * channels : (p + 1) * channels] for p in range(SMALL['pieces'])]
    x = taps[f'hidden{i}'] = windows(jnp.stack(pieces).max(0), pool, stride)
  embed = x.reshape(len(x), -1)
  head = params['head']['linear']
  return taps | {'embed': embed, 'logits': embed @ head['kernel'] + head['bias']}


def test_it_is_a_max_over_pieces_and_windows():
  net, rng = registry.make('models', 'maxout', SMALL), np.random.default_rng(0)
  image = rng.integers(0, 256, (2, 7, 7, 1)).astype(np.uint8)
  like = jax.eval_shape(net.init, jax.random.key(0), {'image': image})['params']
  params = jax.tree.map(lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32), like)

  def both(params):
    ours = net.apply({'params': params}, {'image': image})
    return ours, plainly(params, image / np.float32(255))

  def loss(params, i):
    return sum(jnp.sum(jnp.sin(x)) for x in both(params)[i].values())

  (ours, theirs), *grads = jax.jit(lambda p: (both(p), *(jax.grad(loss)(p, i) for i in (0, 1))))(params)
  assert ours.keys() == theirs.keys() and ours['hidden1'].shape == (2, 3, 3, 3)
  for a, b in ((ours, theirs), grads):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5), a, dict(b))


@pytest.mark.parametrize(
  'side, size, stride, wanted', [(21, 4, 2, 10), (9, 4, 2, 4), (3, 4, 2, 1), (6, 1, 1, 6)]
)
def test_windows_hang_over_the_end(side, size, stride, wanted):
  assert jax.eval_shape(lambda x: pooled(x, size, stride), jnp.zeros((1, side, side, 2))).shape == (
    1,
    wanted,
    wanted,
    2,
  )


def test_dropout_and_the_start():
  net = registry.make('models', 'maxout', SMALL | {'dropout': 0.5, 'input_dropout': 0.2, 'spread': 0.005})
  batch = {'image': np.full((2, 7, 7, 1), 255, np.uint8)}

  def run(rng):
    variables = net.init(rng, batch)
    taken = [net.apply(variables, batch, train=True, rngs={'dropout': jax.random.key(i)}) for i in range(2)]
    positive = jax.tree.map(jnp.abs, variables), batch
    dropped = net.clone(dropout=0.0).apply(*positive, train=True, rngs={'dropout': rng})
    return variables['params'], taken, net.apply(variables, batch), (dropped, net.apply(*positive))

  params, (one, other), whole, (dropped, all_there) = jax.jit(run)(jax.random.key(0))
  assert (dropped['hidden1'] <= all_there['hidden1'] + 1e-6).all()  # pixels are taken away, none is scaled up
  assert (dropped['hidden1'] < all_there['hidden1'] - 1e-4).any()
  for name in ('hidden1', 'hidden2'):
    kernel = np.abs(params[name]['conv']['kernel'])
    assert 0.004 < kernel.max() <= 0.005
    assert (one[name] != other[name]).any()
  assert (one['embed'] == 0).any() and not (whole['embed'] == 0).any()


def test_layers_are_counted():
  net = registry.make('models', 'maxout', SMALL | {'pad': (0,)})
  with pytest.raises(KdjaxError, match='a number a layer'):
    jax.eval_shape(net.init, jax.random.key(0), {'image': jnp.zeros((1, 7, 7, 1))})


@pytest.mark.parametrize(
  'stage, weights, maps',
  [
    ('teacher', 360_816, {'hidden1': (10, 48), 'hidden2': (4, 48), 'hidden3': (3, 24)}),
    ('student', 29_944, {'hidden2': (10, 16), 'hidden3': (12, 16), 'hidden4': (4, 16), 'hidden6': (3, 12)}),
  ],
)
def test_sizes_are_those_of_the_paper(stage, weights, maps):
  inputs = load(TABLE, 'paper').experiments['MNIST'][stage].model.to_dict()
  net = registry.make('models', inputs.pop('model'), inputs | {'num_classes': 10})
  batch = {'image': jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.uint8)}
  taps, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), batch)
  assert sum(x.size for x in jax.tree.leaves(variables) if x.ndim > 1) == weights  # biases are not counted
  assert {k: (taps[k].shape[1], taps[k].shape[3]) for k in maps} == maps
  assert taps['embed'].shape[1] == maps[max(maps)][0] ** 2 * maps[max(maps)][1]


@pytest.mark.parametrize('scale', ['paper', 'cpu'])
def test_the_weights_of_the_losses_are_those_of_the_paper(scale):
  """The hint alone, halved and summed over its map; then the labels and λ, from 4 to 1 in 0.3 of the time."""
  config = load(TABLE, scale).experiments['MNIST']
  steps, rng = config.student.train.steps, np.random.default_rng(0)
  logits = {k: jnp.asarray(rng.normal(size=(2, 10)) * 3, jnp.float32) for k in 'st'}
  maps = jnp.asarray(rng.normal(size=(2, 4, 4, 16))), jnp.asarray(rng.normal(size=(2, 4, 4, 48)))
  s, t = {'logits': logits['s'], 'hidden4': maps[0]}, {'logits': logits['t'], 'hidden2': maps[1]}
  batch = {'label': jnp.array([3, 5])}
  q, p = (jax.nn.log_softmax(logits[k] / 3) for k in 'st')
  kl = float(np.sum(np.exp(p) * (p - q), -1).mean())
  labels = -float(np.mean(jax.nn.log_softmax(logits['s'])[jnp.arange(2), batch['label']]))
  for name in ('KD', 'FitNet'):
    changes = config.cohort[name].to_dict()
    method = build.method(changes['methods'], steps)
    hint = changes['methods'].get('fitnet', {'stop': 0.0})
    first = round(hint['stop'] * steps)
    last = first + (steps - round(config.cohort.FitNet.methods.fitnet.stop * steps)) * 0.3
    params, stats = method.init(jax.random.key(0), s, t, batch)
    result = jax.jit(
      lambda step, method=method, params=params, stats=stats: method.loss(
        params, stats, s, t, batch, step=step, rng=jax.random.key(1)
      )[0]
    )
    for step in (0, max(first - 1, 0), first, round((first + last) / 2), round(last) + 1, steps - 1):
      terms = {k: float(a / b) for k, (a, b) in result(step).items()}
      share = min(max((step - first) / (last - first), 0), 1)
      wanted = (4 - 3 * share) * kl if step >= first else 0
      assert terms['soft_targets'] + terms['early'] == pytest.approx(wanted, rel=2e-3)
      if name == 'FitNet':
        assert terms['labels'] == pytest.approx(labels if step >= first else 0, rel=1e-5)
        own = params['fitnet']['conv']
        inputs = maps[0] @ own['kernel'][0, 0] + own['bias']
        halved = float(np.sum((inputs - maps[1]) ** 2, (1, 2, 3)).mean()) / 2
        assert terms['fitnet'] == pytest.approx(halved if step < first else 0, rel=1e-5)
    assert changes.get('task_weight', 1.0) == (0.0 if name == 'FitNet' else 1.0)
