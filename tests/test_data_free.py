"""Distillation without data: the losses of the generators, the step, and students that see no image."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import registry, types
from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages
from kdjax.methods.logits.logit_l1 import logit_l1
from kdjax.models.vision.generator import Generator
from kdjax.nn import functional
from kdjax.nn.layers import Classifier, read
from kdjax.recipes import model
from kdjax.runtime import signals
from kdjax.training import sharding, step
from kdjax.training.loss_weights import combine
from kdjax.training.metrics_log import read_log
from kdjax.training.schemes import data_free
from kdjax.types import Method, Model

SCHEMES = sorted(registry.names('generators'))
B, C, NOISE = 32, 4, 8
MAPS = {'student': ('stage1',), 'teacher': ('stage1',)}
RECIPES = {
  'dafl': {'kd': {'weight': 1.0, 'temperature': 1.0}},
  'dfad': {'logit_l1': {'weight': 1.0}},
  'zskt': {'kd': {'weight': 1 / C, 'temperature': 1.0}, 'at_mean': {'weight': 250.0, **MAPS}},
}
RNG = np.random.default_rng(0)
S, T = ({'logits': RNG.normal(size=(6, 5)), 'embed': RNG.normal(size=(6, 3))} for _ in range(2))


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def dafl(s, t, one_hot=1.0, activation=0.1, entropy=5.0):
  p = softmax(t['logits'])
  mean = p.mean(0)
  return {
    'one_hot': one_hot * np.mean([-np.log(row[row.argmax()]) for row in p]),
    'activation': -activation * np.abs(t['embed']).mean(),
    'entropy': entropy * np.sum(mean * np.log10(mean)),
  }


def zskt(s, t, weight=1.0, temperature=1.0):
  p, q = softmax(t['logits'] / temperature), softmax(s['logits'] / temperature)
  return {'kl': -weight * np.mean(np.sum(p * np.log(p / q), 1))}


def dfad(s, t, weight=1.0, log=False):
  distance = np.abs(s['logits'] - t['logits']).mean()
  return {'l1': -weight * (np.log(1 + distance) if log else distance)}


@pytest.mark.parametrize(
  'writing, options',
  [
    (dafl, {}),
    (dafl, {'one_hot': 0.05, 'activation': 0.01, 'entropy': 2.0}),
    (zskt, {}),
    (zskt, {'weight': 0.2, 'temperature': 3.0}),
    (dfad, {}),
    (dfad, {'weight': 2.0, 'log': True}),
  ],
)
def test_a_second_writing_of_each_loss_and_its_gradient(writing, options):
  with jax.enable_x64(True):
    scheme = registry.make('generators', writing.__name__, options)

    def value(s, t):
      terms = scheme.loss(s, t, step=0)
      return data_free.mean(terms), terms

    grads, terms = jax.jit(jax.grad(value, (0, 1), has_aux=True))(S, T)  # both lead to the images
    wanted = writing(S, T, **options)
    assert terms.keys() == wanted.keys()
    for name, (total, count) in terms.items():
      np.testing.assert_allclose(total / count, wanted[name], rtol=1e-12)
    rng = np.random.default_rng(1)
    for which in (0, 1):
      for key, x in (S, T)[which].items():
        along, h = rng.normal(size=x.shape), 1e-6
        ends = []
        for sign in (1, -1):
          moved = [dict(S), dict(T)]
          moved[which][key] = x + sign * h * along
          ends.append(sum(writing(*moved, **options).values()))
        slope = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose(np.sum(grads[which][key] * along), slope, rtol=1e-6, atol=1e-9)


def test_a_second_writing_of_the_l1_of_logits():
  batch = {'mask': np.array([1, 1, 0, 1, 1, 0.0])}
  (total, count), _ = logit_l1().loss({}, {}, S, T, batch, step=0, rng=None)
  some = batch['mask'] > 0
  wanted = np.abs(S['logits'] - T['logits'])[some].mean()
  np.testing.assert_allclose(total / count, wanted, rtol=1e-6)


def test_certain_scores_stay_finite():
  t = {'logits': jnp.array([[1e4, 0.0, -1e4]] * 3), 'embed': jnp.zeros((3, 2))}

  @jax.jit
  @jax.grad
  def grads(t):
    schemes = [registry.make('generators', name, {}) for name in SCHEMES]
    return sum(data_free.mean(scheme.loss(t, t, step=0)) for scheme in schemes)

  assert all(np.isfinite(g).all() for g in grads(t).values())


@pytest.mark.parametrize('name', SCHEMES)
def test_a_scheme_says_what_it_is(name):
  module, entry = registry.module('generators', name), registry.entry('generators', name)
  assert len(module.__doc__.split('\n')[0]) <= 110 and 'methods = ' in module.__doc__
  for option in inspect.signature(entry).parameters.values():
    assert option.kind is option.KEYWORD_ONLY and option.default is not option.empty
    assert f'{option.name}:' in entry.__doc__, f'{name} does not document {option.name}'
  half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (S, T))
  method = registry.make('generators', name, {'student_steps': 3})
  assert method.student_steps == 3
  assert all(total.dtype == jnp.float32 for total, _ in method.loss(*half, step=0).values())


# An arithmetic that can be followed: image = g · z, teacher x = image, student x = w · image.
def scaled(name, key, tap, start):
  def apply(variables, batch, *, train=False, rng=None):
    return {tap: batch[key] * variables['params'][name]}, {}

  return Model(lambda rng, batch: {'params': {name: jnp.float32(start)}}, apply)


def square(s, t):
  return jnp.sum(jnp.mean((s['x'] - t['x']) ** 2, -1)), jnp.float32(s['x'].shape[0])


def sums(images, **options):
  models = scaled('w', 'image', 'x', 0.5), scaled('v', 'image', 'x', 1.0), scaled('g', 'noise', 'image', 2.0)
  method = Method(
    lambda *_: ({}, {'seen': jnp.zeros(())}),
    lambda params, stats, s, t, batch, **_: (square(s, t), {'seen': square(s, t)[0]}),
  )
  method = combine({'square': (1.0, method, lambda step: 1.0)})

  def apart(s, t, *, step):
    total, count = square(s, t)
    return {'square': (-total, count)}

  loss = types.GeneratorLoss(apart, 2, images)
  student, teacher, generator = models
  parts = (
    student,
    teacher,
    data_free.ImageGenerator(generator, NOISE, loss, optax.sgd(0.1)),
    method,
    optax.sgd(0.01),
  )
  init = data_free.make_init(*parts, ema=bool(options.get('ema')))
  update = data_free.make_update(*parts, **options)
  return init, update


TAUGHT, BATCH = {'params': {'v': jnp.float32(1.0)}}, {'id': jnp.arange(B)}


@pytest.mark.parametrize('images', ['same', 'noise', 'fresh'])
def test_a_step_by_hand(images):
  init, update = sums(images, ema=0.9)
  state = jax.jit(init)(3, TAUGHT, BATCH)
  new, losses = jax.jit(update)(state, TAUGHT, BATCH)
  total, count = losses['generator/square']
  z2 = -total / count / (2.0 * 0.5) ** 2  # the mean square of the noise
  assert count == B and 0.7 < z2 < 1.3
  g = 2.0 + 0.1 * 2 * 2.0 * 0.25 * z2  # it raised what it was to raise, along both networks
  np.testing.assert_allclose(new.params['generator']['g'], g, rtol=1e-5)
  w, values, norms = 0.5, [], []
  for _ in range(2):
    m = z2 * (2.0 if images == 'same' else g) ** 2
    values, norms = [*values, (w - 1) ** 2 * m], [*norms, abs(2 * (w - 1) * m)]
    w -= 0.01 * 2 * (w - 1) * m
  total, count = losses['square']
  assert count == 2 * B and losses['grad_norm'][1] == 2
  if images == 'fresh':
    assert abs(total / count - np.mean(values)) > 1e-3 and 0.5 < new.params['student']['w'] < 0.7
    return
  np.testing.assert_allclose(total / count, np.mean(values), rtol=1e-5)
  np.testing.assert_allclose(losses['grad_norm'][0], sum(norms), rtol=1e-5)
  np.testing.assert_allclose(new.params['student']['w'], w, rtol=1e-5)
  np.testing.assert_allclose(new.stats['method']['square']['seen'] / B, values[-1], rtol=1e-5)
  np.testing.assert_allclose(new.ema['params']['w'], 0.9 * 0.5 + 0.1 * w, rtol=1e-5)
  assert new.step == 1


def test_seeds_loops_and_devices_give_the_same(eight_devices):
  init, update = sums('fresh')
  states = [jax.jit(init)(1, TAUGHT, BATCH)]
  states.append(states[0].replace(seed=jnp.uint32(2)))  # nothing here is drawn at the start
  update = jax.jit(update)
  wanted = [update(state, TAUGHT, BATCH) for state in states]
  assert wanted[0][1]['square'][0] != wanted[1][1]['square'][0]
  mesh = sharding.make_mesh()
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(sharding.AXIS))
  _, spread = sums('fresh', unroll=False, place=lambda z: jax.lax.with_sharding_constraint(z, rows))
  stacked = jax.device_put(jax.tree.map(lambda *x: jnp.stack(x), *states), sharding.replicated(mesh))
  batch = sharding.to_global_arrays({'id': np.arange(B)}, mesh)
  result = jax.jit(step.vmap_seeds(spread))(stacked, TAUGHT, batch)
  for a, *b in zip(*map(jax.tree.leaves, (result, *wanted)), strict=True):
    np.testing.assert_allclose(a, np.stack(b), rtol=1e-5)


class Net(nn.Module):
  width: int

  @nn.compact
  def __call__(self, inputs, train=False):
    x = read(inputs, 'image')
    x = nn.relu(nn.Dense(self.width, name='dense')(x.reshape(x.shape[0], -1)))
    return Classifier(C, name='head')({'embed': x, 'stage1': x.reshape(x.shape[0], 4, 4, -1)})


class Small(nn.Module):
  """A generator that compiles in no time."""

  @nn.compact
  def __call__(self, inputs, train=False):
    x = nn.BatchNorm(not train, momentum=0.9)(nn.Dense(64)(read(inputs, 'noise')))
    return {'image': jnp.tanh(x).reshape(-1, 8, 8, 1)}


def adam(lr):
  return optax.inject_hyperparams(optax.adam)(learning_rate=lr)


@pytest.fixture(scope='module')
def taught():
  """(student, teacher, generator, the trained teacher's variables, images, its answers to them)."""
  rng = np.random.default_rng(7)
  student, teacher, generator = (functional.functions(net, {}) for net in (Net(16), Net(32), Small()))
  centres, label = rng.normal(size=(C, 8, 8, 1)), rng.integers(0, C, 1024)
  image = np.float32(centres[label] + rng.normal(size=(1024, 8, 8, 1)))
  variables, tx = teacher.init(jax.random.key(0), {'image': image[:1]}), optax.adam(1e-2)

  def objective(variables):
    logits = teacher.apply(variables, {'image': image[:512]})[0]['logits']
    return optax.softmax_cross_entropy_with_integer_labels(logits, label[:512]).mean()

  @jax.jit
  def update(variables, opt_state):
    updates, opt_state = tx.update(jax.grad(objective)(variables), opt_state)
    return optax.apply_updates(variables, updates), opt_state

  opt_state = tx.init(variables)
  for _ in range(60):
    variables, opt_state = update(variables, opt_state)
  image = image[512:]
  answers = np.argmax(teacher.apply(variables, {'image': image})[0]['logits'], -1)
  assert (answers == label[512:]).mean() > 0.95
  return student, teacher, generator, variables, image, answers


def parts(name, taught):
  """What a scheme's init and update are made from."""
  student, teacher, generator = taught[:3]
  maker = data_free.ImageGenerator(generator, NOISE, registry.make('generators', name, {}), adam(3e-3))
  return student, teacher, maker, build.method(RECIPES[name], 1000), adam(1e-2)


@pytest.fixture(scope='module')
def first(taught):
  """`first(seed)`: the first state of each scheme, and the first student of the usual step."""
  student, _, _, variables, image, _ = taught

  def init(seed):
    values = {name: data_free.make_init(*parts(name, taught))(seed, variables, BATCH) for name in RECIPES}
    usual = step.make_init(student, combine({}), optax.sgd(0.1))(seed, {}, {'image': image[:B]})
    return values, usual.params['student']

  return jax.jit(init)


@pytest.fixture(scope='module', params=SCHEMES)
def scheme(request, taught):
  """(name, its compiled update)."""
  update = data_free.make_update(*parts(request.param, taught), unroll=False)
  return request.param, jax.jit(update)


def frozen(state, who):
  """The state with a learning rate of 0 for the student or the generator."""
  mine = state.opt_state[who]
  still = mine._replace(hyperparams={**mine.hyperparams, 'learning_rate': jnp.float32(0)})
  return state.replace(opt_state={**state.opt_state, who: still})


def same(a, b):
  return all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def run(update, state, variables, steps):
  losses = []
  for _ in range(steps):
    state, terms = update(state, variables, BATCH)
    losses.append({k: float(total / count) for k, (total, count) in terms.items()})
  return state, losses


@pytest.mark.whole
def test_the_state_keeps_its_form_and_the_batch_gives_its_size(taught, first, scheme):
  name, update = scheme
  states, usual = first(0)
  state, variables = states[name], taught[3]
  assert same(state.params['student'], usual), 'the student starts as it does beside data'
  before = jax.tree.map(np.array, variables)
  new, losses = update(state, variables, BATCH)
  assert jax.tree.structure(new) == jax.tree.structure(state)
  for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
    assert a.shape == b.shape and a.dtype == b.dtype
  assert new.params.keys() == {'student', 'method', 'generator'} and new.step == 1
  steps = registry.make('generators', name, {}).student_steps
  assert all(losses[k][1] == steps * B for k in RECIPES[name]) and losses['grad_norm'][1] == steps
  again, _ = update(state, variables, {'id': 9 - BATCH['id']})
  assert same(new, again), 'it used more of the batch than its size'
  later, _ = update(state.replace(step=state.step + 1), variables, BATCH)
  assert not same(new.params, later.params), 'the noise is a function of seed and step'
  run(update, new, variables, 3)
  assert same(before, variables)


def test_each_moves_as_its_loss_says(taught, first, scheme):
  name, update = scheme
  state, variables = first(1)[0][name], taught[3]
  new, losses = run(update, frozen(state, 'student'), variables, 40)
  assert same(new.params['student'], state.params['student'])
  assert not same(new.params['generator'], state.params['generator'])
  values = [sum(v for k, v in terms.items() if k.startswith('generator/')) for terms in losses]
  assert np.mean(values[-5:]) < np.mean(values[:5]) - 0.05, 'the generator went up its loss'
  new, losses = run(update, frozen(state, 'generator'), variables, 40)
  assert same(new.params['generator'], state.params['generator'])
  learned = [sum(terms[k] for k in RECIPES[name]) for terms in losses]
  assert np.mean(learned[-5:]) < 0.5 * np.mean(learned[:5]), 'the student went up its loss'


@pytest.mark.parametrize('seed', [0, 1])
def test_a_student_learns_from_a_teacher_alone(taught, first, scheme, seed):
  name, update = scheme
  student, _, _, variables, image, answers = taught

  def agreement(state):
    outputs, _ = student.apply({'params': state.params['student']}, {'image': image})
    return (np.argmax(outputs['logits'], -1) == answers).mean()

  state = first(seed)[0][name]
  before = agreement(state)
  state, _ = run(update, state, variables, 100)
  assert before < 0.5 and agreement(state) > 0.8


def test_a_generator_makes_images_of_a_size():
  batch = {'noise': jax.random.normal(jax.random.key(0), (16, 5))}
  rng, models = np.random.default_rng(0), {}
  for normalise in (True, False):
    net = Generator(noise=5, width=2, size=(12, 8), channels=3, normalise=normalise)
    models[normalise] = functional.functions(net, {})
  shapes = jax.eval_shape(models[True].init, jax.random.key(0), batch)
  variables = jax.tree.map(lambda x: np.float32(rng.normal(size=x.shape)), shapes)

  @jax.jit
  def images():
    return [models[k].apply(variables, batch, train=True)[0]['image'] for k in (True, False)]

  normal, bounded = images()
  assert normal.shape == bounded.shape == (16, 12, 8, 3) and normal.dtype == jnp.float32
  np.testing.assert_allclose(normal.mean((0, 1, 2)), 0, atol=1e-3)
  np.testing.assert_allclose(normal.std((0, 1, 2)), 1, atol=1e-2)
  assert np.abs(bounded).max() <= 1
  for options, wrong in (({'size': 10}, 'size=10'), ({'noise': 4}, 'noise=4')):
    model = functional.functions(Generator(**{'noise': 5} | options), {})
    with pytest.raises(KdjaxError, match=wrong):
      jax.eval_shape(model.init, jax.random.key(0), batch)


@pytest.mark.whole
def test_an_experiment_without_data(experiment, config):
  """Stopped in the middle and gone on with, it ends in the very same student."""
  small = {'scheme': 'dfad', 'student_steps': 2, 'optimiser': {'name': 'adam', 'lr': 1e-3}}
  with config.unlocked():
    for stage in ('teacher', 'student'):
      config[stage].model = model('resnet', widths=(4,), blocks=(0,), patch=4)
    config.generator = small | {'model': model('generator', noise=8, width=2)}
  config.seeds, config.student.train.steps = 1, 4
  config.methods = {'kd': {'weight': 1.0, 'temperature': 1.0}}
  stages.run(whole := experiment('whole'), ('teacher', 'student'))
  logged = set().union(*read_log(whole.folder('student') / 'metrics.jsonl'))
  assert logged >= {'loss/kd', 'loss/generator/l1'}
  config.teacher.init = str(whole.folder('teacher') / 'seed_0.safetensors')
  stages.run(halved := experiment('halved'), ('teacher',))
  stops = iter([False, False, True, True, True])
  with pytest.raises(signals.Interrupted):
    stages.train_stage(halved, 'student', stopped=lambda: next(stops))
  stages.train_stage(halved, 'student')
  jax.tree.map(np.testing.assert_array_equal, whole.variables('student'), halved.variables('student'))
