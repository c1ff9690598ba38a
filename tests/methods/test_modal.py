"""Methods for missing and unequal modalities: second writings in NumPy, and trainings of a few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import second_writing

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.experiment import build, validate
from kdjax.recipes import model
from kdjax.training import accumulate, step

B, C, RNG = 6, 4, np.random.default_rng(0)
LABEL = np.array([0, 3, 2, -1, 1, 3], np.int32)
PRESENT = {'image': np.array([1, 0, 1, 0, 1, 1]), 'text': np.array([1, 1, 0, 1, 1, 0])}
BATCH = {'label': LABEL} | {f'{k}/present': np.float32(v) for k, v in PRESENT.items()}


def log_softmax(z):
  return z - np.log(np.sum(np.exp(z)))


def kl(p, q):
  p, q = log_softmax(p), log_softmax(q)
  return np.exp(p) @ (p - q)


def dense(x, layer):
  return x @ np.asarray(layer['kernel']) + np.asarray(layer['bias'])


def train(exp, n=4, parts=1):
  """(states, losses) of n steps of the student's update on one batch, once the experiment is checked."""
  validate.check(exp)
  student, teacher, methods = exp.model('student'), exp.model('teacher'), exp.config['methods']
  batch = {k: jnp.asarray(v) for k, v in exp.data.train.take(np.arange(16)).items()}
  weights = jax.jit(teacher.init)(jax.random.key(9), batch)
  _, t = jax.jit(step.make_teacher_forward(teacher, lambda batch: batch))(weights, batch)
  method, tx = build.method(methods, n), optax.adam(0.01)
  states, losses = [jax.jit(step.make_init(student, method, tx))(0, t, batch)], []
  update = jax.jit(
    step.make_update(
      student, exp.task, method, tx, gradient=accumulate.in_parts(parts) if parts > 1 else step.GRAD
    )
  )
  for _ in range(n):
    state, loss = update(states[-1], t, batch)
    states.append(state)
    losses.append({k: float(total / count) for k, (total, count) in loss.items()})
  assert all(np.isfinite(v) for loss in losses for v in loss.values())
  return states, losses


def taps(width):
  return {'logits': RNG.normal(size=(B, C)), 'embed': RNG.normal(size=(B, width))}


S, T = taps(2), taps(3)
S32, T32 = ({k: np.float32(v) for k, v in x.items()} for x in (S, T))
SEEN = np.array([[9, 1, 1, 1], [3, 3, 3, 3], [2, 2, 2, 2]], np.float32)  # worst without images


def mmanet(released):
  def writing(s, t, params, still):
    grams = [x['embed'] @ x['embed'].T for x in (s, t)]
    a, b = (g / np.linalg.norm(g, axis=1, keepdims=True) for g in grams)
    entropy = np.array([-np.exp(log_softmax(z)) @ log_softmax(z) for z in t['logits']])
    h, total = entropy / entropy.sum(), 0
    for i in range(B):
      for j in range(B):
        total += 3 * h[j if released else i] * (a[i, j] - b[i, j]) ** 2
      if LABEL[i] >= 0 and not PRESENT['image'][i]:
        z = dense(np.maximum(dense(s['embed'][i], params['hidden']), 0), params['out'])
        total -= 2 * log_softmax(z)[LABEL[i]] / B
    return total

  return writing


@pytest.mark.parametrize('released', [False, True])
def test_mmanet_by_hand(released):
  options = {'margin': 3, 'regularise': 2, 'mining': 0.0, 'width': 5, 'released': released}
  method = registry.make('methods', 'mmanet', options)
  mined = method._replace(init=lambda *given: (method.init(*given)[0], {'classes': jnp.asarray(SEEN)}))
  second_writing.check(mined, mmanet(released), S, T, BATCH)


def test_mmanet_counts_the_classes_of_each_combination_while_it_mines():
  method = registry.make('methods', 'mmanet', {'steps': 20, 'mining': 0.5})
  params, stats = method.init(jax.random.key(0), S32, T32, BATCH)
  mask = {'mask': np.arange(B) < 5}

  def classes(step):
    return method.loss(params, stats, S32, T32, BATCH | mask, step=step, rng=None)[1]['classes']

  wanted = np.zeros((3, C))
  for i in range(5):
    case = {(0, 1): 0, (1, 0): 1, (1, 1): 2}[PRESENT['image'][i], PRESENT['text'][i]]
    wanted[case, S['logits'][i].argmax()] += 1
  np.testing.assert_array_equal(classes(9), wanted)
  np.testing.assert_array_equal(classes(10), 0)  # mined


def test_mmanet_is_told_which_modalities_the_student_was_given():
  method = registry.make('methods', 'mmanet', {})
  params, stats = method.init(jax.random.key(0), S32, T32, BATCH)
  seen = {f'{k}/present': np.float32(1 - v) for k, v in PRESENT.items()}
  _, new = method.loss(params, stats, S32 | seen, T32, BATCH, step=0, rng=None)
  assert new['classes'][2].sum() == 0  # by the batch, three have both


@pytest.mark.whole
def test_mmanet_trains_a_student_that_lacks_modalities(config, experiment):
  """Of four steps, the first two look for the weakest combination."""
  config.student.drop = {'image': 0.5, 'text': 0.5}
  config.methods = {'mmanet': {'mining': 0.5, 'fused': 'joint'}}
  states, _ = train(experiment())
  seen = [state.stats['method']['mmanet']['classes'] for state in states]
  assert 0 < seen[1][:2].sum() < 16 and 0 < seen[1][2].sum() < 16
  assert seen[2].sum() == 32 and np.all(seen[3] == seen[2])
  first = [state.params['method']['mmanet']['out']['kernel'] for state in states]
  assert np.all(first[2] == first[0]) and np.any(first[3] != first[2])


UNIMODAL = {
  f'{k}/{tap}': RNG.normal(size=shape) for k in 'ab' for tap, shape in (('logits', (B, C)), ('x', (B, 3)))
}
G2D = {'teachers': ('a/logits', 'b/logits'), 'teacher_features': ('a/x', 'b/x'), 'features': ('u', 'v')}


def g2d(s, t, params, still):
  total = 0
  for i in range(B):
    for stage, tap, name in ((0, 'u', 'a'), (1, 'v', 'b')):
      x = s[tap][i] if tap == 'v' else dense(s[tap][i], params[f'stage{stage}'])
      total += 9 * kl(t[f'{name}/logits'][i] / 3, s['logits'][i] / 3)
      total += 2 * np.mean((x - t[f'{name}/x'][i]) ** 2)
  return total / B


def test_g2d_by_hand():
  s = {'logits': S['logits'], 'u': RNG.normal(size=(B, 2)), 'v': RNG.normal(size=(B, 3))}
  method = registry.make('methods', 'g2d', G2D | {'temperature': 3, 'feature': 2})
  second_writing.check(method, g2d, s, UNIMODAL, BATCH)


def test_g2d_lets_the_least_sure_learn_first():
  options = {'encoders': tuple('xyz'), 'features': ('u',) * 3, 'teachers': ('p', 'q', 'r')}
  options |= {'teacher_features': ('u',) * 3, 'steps': 10, 'prioritise': 0.8}
  method = registry.make('methods', 'g2d', options)
  u, label = np.ones((B, 2), np.float32), np.maximum(LABEL, 0)
  t = {k: np.float32(sure * np.eye(C)[label]) for k, sure in (('p', 3), ('q', 1), ('r', 2))} | {'u': u}
  s = {'logits': S32['logits'], 'u': u}
  params, stats = method.init(jax.random.key(0), s, t, BATCH)

  def gains(step):
    _, new = method.loss(params, stats, s, t, BATCH, step=step, rng=None)
    return [float(x) for x in method.gains(new).values()]

  assert [gains(i) for i in (0, 3, 4, 7, 8, 9)] == [[0, 1, 0]] * 2 + [[0, 1, 1]] * 2 + [[1, 1, 1]] * 2
  wanted = np.mean(
    [np.exp(log_softmax(z))[y] if y >= 0 else 0 for z, y in zip(np.asarray(t['p']), LABEL, strict=True)]
  )
  _, new = method.loss(params, stats, s, t, BATCH, step=0, rng=None)
  np.testing.assert_allclose(new['sure'][0], wanted, rtol=1e-5)
  _, kept = method.loss(params, new, s, t, BATCH | {'mask': np.zeros(B)}, step=0, rng=None)
  np.testing.assert_array_equal(kept['sure'], new['sure'])
  assert registry.make('methods', 'g2d', options | {'prioritise': 0.0}).gains is None


def unimodal(config):
  members = {
    'see': model('resnet', widths=(4, 8), blocks=(0, 1), patch=4),
    'read': model('bag_of_words', width=8),
  }
  config.teacher.model = model('ensemble', members=members)
  options = {'teachers': ('see/logits', 'read/logits'), 'teacher_features': ('see/embed', 'read/embed')}
  config.methods = {'g2d': options}


def moved(states, i, name):
  a, b = (jax.tree.leaves(states[k].params['student'][name]) for k in (i, i + 1))
  return any(np.any(x != y) for x, y in zip(a, b, strict=True))


@pytest.mark.whole
def test_g2d_holds_the_encoder_of_the_surer_teacher_for_half_of_the_training(config, experiment):
  unimodal(config)
  states, _ = train(experiment())
  sure = states[1].stats['method']['g2d']['sure']
  weak, strong = ('encoders_image', 'encoders_text')[:: 1 if sure[0] < sure[1] else -1]
  assert [moved(states, i, strong) for i in range(4)] == [False, False, True, True]
  assert all(moved(states, i, weak) and moved(states, i, 'head') for i in range(4))


@pytest.mark.whole
def test_g2d_in_parts_holds_the_same_encoder(config, experiment):
  unimodal(config)
  config.student.model.encoders.image = model('mlp', hidden=(4,))  # no batch norm
  whole, parts = (train(experiment(f'parts{n}'), n=1, parts=n)[0][-1] for n in (1, 4))
  for x, y in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-4)


@pytest.mark.whole
def test_g2d_names_the_submodules_of_the_student(config, experiment):
  unimodal(config)
  config.methods.g2d.encoders = ('encoders_image', 'encoders_words')
  with pytest.raises(KdjaxError, match="'encoders_words'; did you mean 'encoders_text'"):
    train(experiment())
  with pytest.raises(KdjaxError, match='give as many of each'):
    registry.make('methods', 'g2d', {'teachers': ('a/logits',)})


MST = {'teachers': ('a/logits', 'b/logits', 'c/logits'), 'temperature': 2, 'balance': 3, 'k': 2, 'width': 3}


def mst_distill(masked):
  def router(params, q):
    return log_softmax(dense(dense(q, params['router']['in']), params['router']['out']))

  def writing(s, t, params, still):
    total, gates = 0, []
    fixed_s, fixed = still
    for i, q in enumerate(s['logits']):
      gate = router(params, q)
      gates.append(np.exp(gate))
      costs = []
      for j, name in enumerate('abc'):
        p = t[f'{name}/logits'][i]
        if masked:
          x, own = t[f'{name}/x'][i], p

          def keep(params, x=x, j=j):
            y = dense(x, params[f'mask{j}']['hidden'])
            y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
            return 1 / (1 + np.exp(-dense(y, params[f'mask{j}']['out'])))

          p = dense(keep(fixed) * x, fixed[f'head{j}'])
          part = dense(keep(params) * x, fixed[f'head{j}'])
          for loss, at in (
            (kl(own / 2, dense(x, params[f'head{j}']) / 2), kl(own / 2, dense(x, fixed[f'head{j}']) / 2)),
            (kl(fixed_s['logits'][i] / 2, part / 2), kl(fixed_s['logits'][i] / 2, p / 2)),
          ):
            total += 4 * (loss - at) / B
        costs.append(4 * kl(p / 2, q / 2))
      best = np.argsort(-router(fixed, fixed_s['logits'][i]))[:2]
      total += np.mean([costs[j] for j in best]) / B
    mean = np.mean(gates, 0)
    return total + 3 * np.sum(np.log(1 / 3 / mean)) / 3

  return writing


@pytest.mark.parametrize('masked', [False, True])
def test_mst_distill_by_hand(masked):
  t = {f'{k}/{tap}': RNG.normal(size=(B, n)) for k in 'abc' for tap, n in (('logits', C), ('x', 3))}
  method = registry.make(
    'methods', 'mst_distill', MST | ({'masked': ('a/x', 'b/x', 'c/x')} if masked else {})
  )
  second_writing.check(method, mst_distill(masked), {'logits': S['logits']}, t, BATCH)


def test_mst_distill_stays_finite_with_masks():
  options = {'teachers': ('logits', 'logits'), 'masked': ('embed', 'embed')}
  method = registry.make('methods', 'mst_distill', options)
  second_writing.check_finite(method, S, T, BATCH, False)
  s, t = (x | {'logits': np.where(np.arange(C) == 2, -np.inf, x['logits'])} for x in (S32, T32))
  params, stats = method.init(jax.random.key(0), s, t, BATCH)
  for a, b in ((s, t), (S32, t)):
    value, grads = jax.value_and_grad(
      lambda x, t=b: second_writing.loss(method, x[0], stats, x[1], t, BATCH)
    )((params, a))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, grads)))


def test_mst_distill_names_what_does_not_fit():
  for options in ({'k': 2}, {'masked': ('a', 'b')}):
    with pytest.raises(KdjaxError, match='name at least as many teachers'):
      registry.make('methods', 'mst_distill', options)


@pytest.mark.whole
def test_mst_distill_teaches_a_student_of_texts_by_teachers_of_more(config, experiment):
  members = {
    'both': config.teacher.model.to_dict(),
    'see': model('resnet', widths=(4, 8), blocks=(0, 1), patch=4),
  }
  config.teacher.model = model('ensemble', members=members)
  config.student.model = model('bag_of_words', width=4)
  options = {'teachers': ('both/logits', 'see/logits'), 'masked': ('both/embed', 'see/stage1')}
  config.methods = {'mst_distill': options}
  states, losses = train(experiment())
  assert losses[-1]['mst_distill'] != losses[0]['mst_distill']
  first, last = (states[i].params['method']['mst_distill'] for i in (0, -1))
  assert all(np.any(x != y) for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True))
