"""Several teachers in one model: what they say together, how they learn, where their weights come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import teacher_store
from kdjax.errors import KdjaxError
from kdjax.experiment import stages
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.validate import check
from kdjax.models.multimodal.ensemble import Ensemble, mean
from kdjax.models.vision.mlp import Mlp
from kdjax.nn import functional
from kdjax.pretrained import initialize
from kdjax.recipes import model
from kdjax.teacher_store import manifest
from kdjax.training import members

TEACHERS = ('a/logits', 'b/logits', 'c/logits')
METHODS = ('ca_mkd', 'mean_logits', 'mean_probabilities')


@pytest.fixture
def small(config):
  """Models that compile in no time."""
  config.teacher.model, config.student.model = model('mlp', hidden=(16,)), model('mlp', hidden=(4,))
  return config


def variables(experiment, stage='teacher'):
  return jax.tree.map(lambda x: x[0], experiment.variables(stage))


def answers(experiment, weights, batch):
  return experiment.model('teacher').apply(weights, batch, train=False)[0]


def test_logits_are_the_mean_of_the_members():
  rng = np.random.default_rng(0)
  a, b = ({'logits': rng.normal(size=(4, 3)).astype(np.float32)} for _ in 'ab')
  result = jax.nn.softmax(mean([a, b])['logits'])
  both = np.sqrt(jax.nn.softmax(a['logits']) * jax.nn.softmax(b['logits']))
  np.testing.assert_allclose(result, both / both.sum(1, keepdims=True), rtol=1e-5)
  assert mean([a, {'embed': a['logits']}]) == {}


def test_two_towers_score_as_the_members_do_in_the_mean():
  rng, collected = np.random.default_rng(0), []
  for width, scale in ((3, 20.0), (5, 4.0)):
    image, text = rng.normal(size=(2, 6, width)).astype(np.float32)
    inputs = {'image/embed': image, 'text/embed': text, 'logit_scale': jnp.log(scale)}
    collected.append(inputs | {'logit_bias': jnp.float32(-scale)})

  def scores(x):
    v, w = (x[k] / jnp.linalg.norm(x[k], axis=1, keepdims=True) for k in ('image/embed', 'text/embed'))
    return jnp.exp(x['logit_scale']) * v @ w.T + x['logit_bias']

  result = mean(collected)
  np.testing.assert_allclose(scores(result), sum(map(scores, collected)) / 2, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(jnp.linalg.norm(result['image/embed'], axis=1), 1, rtol=1e-5)


@pytest.mark.whole
def test_a_member_learns_as_it_does_alone(experiment, config):
  whole = experiment()
  batch = whole.data.train.take(np.arange(16))
  config.teacher.model = model('ensemble', members={k: config.teacher.model.to_dict() for k in 'ab'})
  both = experiment('both')
  net, alone = both.model('teacher'), whole.model('teacher')
  weights = jax.jit(net.init)(jax.random.key(0), batch)
  assert net.members == ('a', 'b') and alone.members == ()

  def gradient(of, task, weights):
    def loss(params):
      outputs, _ = of.apply(weights | {'params': params}, batch, train=True, rng=jax.random.key(1))
      total, count = task.loss(outputs, batch)
      return total / count

    return jax.jit(jax.grad(loss))(weights['params'])

  together = gradient(net, members.each_alone(both.task, net.members), weights)
  for name in 'ab':
    own = {kind: tree[f'members_{name}'] for kind, tree in weights.items()}
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
      together[f'members_{name}'],
      gradient(alone, whole.task, own),
    )
  apart = [
    x - y
    for x, y in zip(*map(jax.tree.leaves, (weights['params'][f'members_{k}'] for k in 'ab')), strict=True)
  ]
  assert any(np.any(x != 0) for x in apart)  # the members begin with weights of their own


def trained_apart(config, tmp_path):
  """Teachers of three workdirs, and the members that are made of them."""
  collected, whole = {}, []
  for seed, name in enumerate('abc'):
    config.seed = seed
    one = Experiment(config.to_dict(), tmp_path / name)
    stages.run(one, ('teacher',))
    file = str(one.folder('teacher') / f'seed_{seed}.safetensors')
    collected[name] = config.teacher.model.to_dict() | {'init': file, 'frozen': True}
    whole.append(one)
  config.seed = 0
  return collected, whole


@pytest.mark.whole
def test_teachers_of_three_workdirs_teach_by_every_method(small, tmp_path):
  """They are taken as they are, classifiers too, and nothing of them is trained."""
  inputs, whole = trained_apart(small, tmp_path)
  small.teacher.model = model('ensemble', members=inputs)
  small.methods = {name: {'teachers': TEACHERS} for name in METHODS}
  together = Experiment(small.to_dict(), tmp_path / 'together')
  stages.run(together, ('teacher', 'student'))
  assert together.summary('teacher')['steps'] == 0
  batch = together.data.test.take(np.arange(8))
  message, logits = answers(together, variables(together), batch), []
  for name, one in zip('abc', whole, strict=True):
    logits.append(answers(one, variables(one), batch)['logits'])
    np.testing.assert_allclose(message[f'{name}/logits'], logits[-1], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(message['logits'], np.mean(logits, 0), rtol=1e-5, atol=1e-6)
  assert np.ptp(logits, 0).max() > 1e-3
  judged = together.evaluator('teacher')(together.variables('teacher'), together.data.test)
  assert 0 <= judged.metrics['top1'][0] <= 1
  log = (together.folder('student') / 'metrics.jsonl').read_text()
  assert all(f'"loss/{name}"' in log for name in METHODS)


@pytest.mark.whole
def test_an_ensemble_is_trained_and_stored(experiment, small):
  """Members without an init learn side by side, and their answers are kept as any others."""
  small.teacher.model = model('ensemble', members={k: small.teacher.model.to_dict() for k in 'ab'})
  small.methods = {'ca_mkd': {'teachers': TEACHERS[:2]}}
  small.teacher.source, small.store.dtype = 'store', 'float32'
  whole = experiment()
  stages.run(whole, ('teacher', 'student'))
  assert whole.summary('teacher')['steps'] == 6
  kept = manifest.load(teacher_store.folder(whole))['identity']
  assert {k for k in kept if k.startswith('taps.')} == {'taps.a/logits', 'taps.b/logits'}


@pytest.mark.whole
def test_an_init_without_frozen_is_trained_further(small, tmp_path):
  inputs, _ = trained_apart(small, tmp_path)
  still = inputs['a']
  moved = {k: v for k, v in inputs['b'].items() if k != 'frozen'}
  small.teacher.model = model('ensemble', members={'a': still, 'b': moved})
  small.methods = {'mean_logits': {'teachers': TEACHERS[:2]}}
  one = Experiment(small.to_dict(), tmp_path / 'more')
  began = one.start('teacher')
  assert began['params']['members_b']['head'] and began['frozen']['members_a']['head']
  stages.run(one, ('teacher',))
  ended = variables(one)
  jax.tree.map(np.testing.assert_array_equal, ended['frozen'], began['frozen'])
  heads = (jax.tree.leaves(x['params']['members_b']['head']) for x in (ended, began))
  assert any(np.any(x != y) for x, y in zip(*heads, strict=True))


def test_a_member_may_read_other_inputs():
  nets = {k: Mlp(hidden=(4,), num_classes=3) for k in 'ab'}
  net = functional.functions(Ensemble(nets, {'b': {'image': 'small'}}), {})
  batch = {'image': np.ones((2, 4, 4, 1), np.float32), 'small': np.zeros((2, 2, 2, 1), np.float32)}
  weights = jax.jit(net.init)(jax.random.key(0), batch)
  shapes = {k: weights['params'][f'members_{k}'] for k in 'ab'}
  first = [jax.tree.leaves(jax.tree.map(jnp.shape, x, is_leaf=None)) for x in shapes.values()]
  assert first[0] != first[1]
  for inputs in ({'c': nets['a'], 'image': nets['b']}, {'a/b': nets['a']}):
    with pytest.raises(KdjaxError, match='a name is of letters'):
      functional.functions(Ensemble(inputs), {}).init(jax.random.key(0), batch)
  with pytest.raises(KdjaxError, match="'c' in inputs"):
    functional.functions(Ensemble(nets, {'c': {}}), {}).init(jax.random.key(0), batch)


def test_what_cannot_be_is_one_line(experiment, small):
  own = small.teacher.model.to_dict()
  small.teacher.model = model('ensemble', members={k: own | {'frozen': True} for k in 'ab'})
  small.methods = {}
  with pytest.raises(KdjaxError, match=r'members_a is frozen, and nothing says with which weights'):
    check(experiment())
  assert initialize.frozen(small.teacher.model.to_dict()) == (
    ('members_a',),
    ('members_b',),
    ('members_a', 'head'),
    ('members_b', 'head'),
  )


@pytest.mark.whole
def test_the_maps_and_classifiers_of_the_members_reach_ca_mkd(experiment, config):
  widths = {'a': (8, 16), 'b': (4, 12)}
  members_ = {k: model('resnet', widths=w, blocks=(0, 1), patch=4) for k, w in widths.items()}
  config.teacher.model = model('ensemble', members=members_)
  config.student.model = model('resnet', widths=(4, 8), blocks=(0, 1), patch=4)
  taps = {'teachers': ('a/logits', 'b/logits'), 'student_map': 'stage2', 'features': 50.0}
  taps |= {'teacher_maps': ('a/stage2', 'b/stage2')}
  heads = tuple(f'weights/members_{k}/head/linear' for k in 'ab')
  config.methods = {'ca_mkd': {'weight': 1.0, **taps, 'classifiers': heads}}
  exp = experiment()
  stages.run(exp, ('teacher', 'student'))
  batch, weights = exp.data.train.take(np.arange(8)), variables(exp)
  t, s = answers(exp, weights, batch), exp.model('student').apply(variables(exp, 'student'), batch)[0]
  for k, head in zip('ab', heads, strict=True):
    wanted = t[f'{k}/embed'] @ t[f'{head}/kernel'][0] + t[f'{head}/bias'][0]
    np.testing.assert_allclose(wanted, t[f'{k}/logits'], rtol=1e-3, atol=1e-4)
  totals = {}
  for name, features in (('with', 50.0), ('without', 0.0)):
    config.methods.ca_mkd.features = features
    method = experiment(name).method()
    state = method.init(jax.random.key(0), s, t, batch)
    totals[name], _ = method.loss(*state, s, t, batch, step=0, rng=jax.random.key(0))[0]['ca_mkd']
    assert bool(jax.tree.leaves(state)) == (features > 0)
  assert totals['with'] > totals['without']
