"""One step of a student, on a model whose every number can be checked by hand."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.input import splits
from kdjax.training import evaluate, sharding, step
from kdjax.types import Method, Model

BATCH = {'x': jnp.arange(8.0)}


def model(noise=0.0):
  """A weight w: it returns w x, in training with noise, and whether it trains, and keeps its mean input."""

  def apply(variables, batch, train=False, rng=None):
    drawn = noise * jax.random.normal(rng, batch['x'].shape) if train else 0.0
    outputs = {'logits': variables['params']['w'] * batch['x'] + drawn, 'train': jnp.float32(train)}
    return outputs, {'seen': {'mean': batch['x'].mean()}}

  return Model(lambda rng, batch: {'params': {'w': jnp.ones(())}, 'seen': {'mean': jnp.zeros(())}}, apply)


def task(count=2.0):
  return SimpleNamespace(loss=lambda s, batch: (s['logits'].sum(), jnp.float32(count)))


def method(loss=lambda s, t: (0.0 * s['logits'].sum(), 1.0)):
  def losses(params, stats, s, t, batch, *, step, rng):
    total, count = loss(s, t)
    return {'one': (total, jnp.float32(count))}, stats

  return Method(lambda rng, s, t, batch: ({}, {}), losses)


def initial(student, losses, tx, self_teacher=False):
  return step.make_init(student, losses, tx, ema=True, self_teacher=self_teacher)(0, {}, BATCH)


def test_every_term_is_a_mean_over_what_it_counts():
  halves, tx = method(lambda s, t: (3 * s['logits'].sum(), 4)), optax.sgd(1.0)
  state = initial(model(), halves, tx)
  new, losses = step.make_update(model(), task(), halves, tx, ema=0.5)(state, {}, BATCH)
  gradient = 28 / 2 + 3 * 28 / 4  # of w: the inputs add up to 28
  assert float(state.params['student']['w'] - new.params['student']['w']) == pytest.approx(gradient)
  assert float(losses['grad_norm'][0]) == pytest.approx(gradient)
  assert [float(x) for x in losses['one']] == [84.0, 4.0]


def test_an_average_moves_towards_the_new_weights():
  tx = optax.sgd(0.1)
  state = initial(model(), method(), tx)
  new, _ = step.make_update(model(), task(), method(), tx, ema=0.75)(state, {}, BATCH)
  w = float(new.params['student']['w'])
  assert w == pytest.approx(1 - 0.1 * 14)
  assert float(new.ema['params']['w']) == pytest.approx(0.75 + 0.25 * w)
  assert float(new.ema['seen']['mean']) == pytest.approx(0.25 * 3.5)


def test_every_step_draws_anew_and_a_step_always_the_same():
  tx = optax.sgd(0.0)
  update = step.make_update(model(1.0), task(), method(), tx)
  first, losses = update(start := initial(model(1.0), method(), tx), {}, BATCH)
  _, later = update(first, {}, BATCH)
  _, again = update(start, {}, BATCH)
  assert losses['task'][0] != later['task'][0] and losses['task'][0] == again['task'][0]


def test_a_student_that_teaches_itself_answers_in_evaluation_mode():
  """With its average, and no gradient goes through it."""
  differs = method(lambda s, t: ((s['logits'] * t['logits']).sum() + 100 * t['train'], 1))
  tx = optax.sgd(1.0)
  state = initial(model(), differs, tx, self_teacher=True)
  state = state.replace(ema={'params': {'w': jnp.float32(2.0)}, 'seen': {'mean': jnp.zeros(())}})
  plain = step.make_update(model(), task(), differs, tx, task_weight=0.0, ema=0.5)
  new, losses = step.with_self_teacher(plain, model())(state, {}, BATCH)
  assert float(losses['one'][0]) == 2 * 140  # the squares of the inputs add up to 140
  assert float(new.params['student']['w']) == 1 - 2 * 140


def test_a_metric_is_a_mean_over_what_it_counts():
  """Examples without a label are not among them, and padding is not."""
  source = splits.InMemorySplit({'label': np.array([1, -1, 0, 1, -1], np.int32)})

  def forward(batch):
    known = (batch['label'] >= 0) & (batch['mask'] > 0)
    sums = [np.array([x.sum()]) for x in (batch['label'] * known, known)]
    return {'top1': sums}, {}, {'mask': batch['mask']}

  metric = SimpleNamespace(metric='top1')
  for size in (2, 5, 8):
    assert evaluate.over_batches(forward, metric, source, size).metrics['top1'] == pytest.approx(2 / 3)


def test_devices_draw_apart_and_share_their_statistics(eight_devices):
  """Under shard_map each sees rows of its own."""
  student, tx, mesh = model(1.0), optax.sgd(0.0), sharding.make_mesh()
  state = initial(student, method(), tx)
  rows = SimpleNamespace(loss=lambda s, batch: ((s['logits'] - batch['x']).sum() ** 2, jnp.float32(1)))
  update = step.make_update(student, rows, method(), tx, axis=sharding.AXIS, ema=0.5)
  run = sharding.compile_update(update, mesh, 'pmap', False, {}, len(BATCH['x']))
  seed = int(state.seed)
  new, losses = run(state, {}, BATCH)
  assert float(new.stats['student']['seen']['mean']) == pytest.approx(3.5)
  noise = jax.random.fold_in(jax.random.key(seed), 0)
  alike = 8 * float(jax.random.normal(jax.random.split(noise)[0], (1,))[0]) ** 2
  assert float(losses['task'][0]) != pytest.approx(alike) and float(losses['task'][1]) == 8
