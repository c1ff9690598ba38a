"""Methods for missing and unequal modalities: second writings in NumPy, and trainings of a few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import second_writing

from kdjax import registry
from kdjax.experiment import build, validate
from kdjax.training import step

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


def train(exp, n=4):
  """(states, losses) of n steps of the student's update on one batch, once the experiment is checked."""
  validate.check(exp)
  student, teacher, methods = exp.model('student'), exp.model('teacher'), exp.config['methods']
  batch = {k: jnp.asarray(v) for k, v in exp.data.train.take(np.arange(16)).items()}
  weights = jax.jit(teacher.init)(jax.random.key(9), batch)
  _, t = jax.jit(step.make_teacher_forward(teacher, lambda batch: batch))(weights, batch)
  method, tx = build.method(methods, n), optax.adam(0.01)
  states, losses = [jax.jit(step.make_init(student, method, tx))(0, t, batch)], []
  update = jax.jit(step.make_update(student, exp.task, method, tx))
  for _ in range(n):
    state, loss = update(states[-1], t, batch)
    states.append(state)
    losses.append({k: float(total / count) for k, (total, count) in loss.items()})
  assert all(np.isfinite(v) for loss in losses for v in loss.values())
  return states, losses


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
