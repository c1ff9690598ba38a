"""Second writings of the contrastive methods, and how `crd` draws and remembers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import second_writing

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.methods.contrastive.crd import draw
from kdjax.methods.contrastive.seed import appended

B, RNG = 5, np.random.default_rng(0)
LABEL = np.array([0, 2, 1, 2, -1], np.int32)
BATCH = {'label': LABEL, 'id': np.array([3, 0, 7, 9, 4], np.int32)}
VIEWS = ('view1', 'view2', 'view3')
KEYS = ('embed', *(f'{view}/embed' for view in VIEWS))
S, T = ({k: RNG.normal(size=(B, width)) for k in KEYS} for width in (2, 3))
S32, T32 = ({k: v.astype(np.float32) for k, v in x.items()} for x in (S, T))
SMALL = {'size': 10, 'negatives': 4, 'dim': 3}
CRD = registry.make('methods', 'crd', SMALL)


def unit(x):
  return x / np.linalg.norm(x)


def log_softmax(z):
  return z - np.log(np.sum(np.exp(z)))


def crd_in_batch(allowed):
  def writing(s, t, params, still):
    v, w = (
      [unit(row) for row in x['embed'] @ params[side]['kernel'] + params[side]['bias']]
      for side, x in (('student', s), ('teacher', t))
    )
    total = 0
    for a, b in ((v, w), (w, v)):
      for i in range(B):
        others = [j for j in range(B) if j != i and allowed(LABEL[i], LABEL[j])]
        total -= log_softmax(np.array([a[i] @ b[j] / 0.2 for j in [i, *others]]))[0]
    return total / (2 * B)

  return writing


def sskd(head):
  def features(x, layers):
    if not head:
      return x
    hidden = np.maximum(x @ layers['in']['kernel'] + layers['in']['bias'], 0)
    return hidden @ layers['out']['kernel'] + layers['out']['bias']

  def similarities(x, params, side):
    values = {k: [unit(row) for row in features(x[k], params.get(side))] for k in KEYS}
    return np.array([[[v @ e for e in values['embed']] for v in values[k]] for k in KEYS[1:]])

  def writing(s, t, params, still):
    q, p = similarities(s, params, 'student'), similarities(t, still[1], 'teacher')
    right, wrong = [], []
    for view in range(3):
      for i in range(B):
        rank = sum(p[view, i] > p[view, i, i])
        one, other = (log_softmax(x[view, i] / 0.5) for x in (p, q))
        entry = (rank, max(p[view, i]) - p[view, i, i], 0.25 * np.exp(one) @ (one - other))
        (wrong if rank else right).append(entry)
    kept = right + sorted(wrong)[: int(0.75 * len(wrong))]
    total = np.mean([entry[2] for entry in kept])
    if head:
      p = similarities(t, params, 'teacher')
      total -= np.mean([log_softmax(p[view, i])[i] for view in range(3) for i in range(B)])
    return total

  return writing


WRITINGS = [
  ('crd_in_batch', {'dim': 3, 'temperature': 0.2}, crd_in_batch(lambda a, b: a != b or b == -1)),
  ('crd_in_batch', {'dim': 3, 'temperature': 0.2, 'same_label': True}, crd_in_batch(lambda a, b: True)),
  ('sskd', {'head': False}, sskd(False)),
  ('sskd', {}, sskd(True)),
]


@pytest.mark.parametrize('name,options,writing', WRITINGS)
def test_the_second_writing_and_its_gradient(name, options, writing):
  keys = KEYS if name == 'sskd' else ['embed']
  method = registry.make('methods', name, options)
  second_writing.check(method, writing, {k: S[k] for k in keys}, T, BATCH)


@pytest.mark.parametrize(
  'name,options', [('crd', SMALL), ('crd_in_batch', {}), ('sskd', {}), ('sskd', {'head': False})]
)
def test_it_stays_finite(name, options):
  method = registry.make('methods', name, options)
  second_writing.check_finite(method, S, T, BATCH, 'head' in options)


def test_crd_draws_from_every_other_label_and_from_none_of_its_own():
  labels = jnp.array([2, 0, 1, 1, -5, 2, 0, 2, 1, -10])
  ids = jnp.array([7, 4, 1])
  drawn = np.array(draw(jax.random.key(0), ids, labels, 400))
  np.testing.assert_array_equal(drawn[:, 0], ids)
  for i, row in zip(ids, drawn[:, 1:], strict=True):
    others = np.flatnonzero(labels != labels[i])
    np.testing.assert_array_equal(np.unique(row), others)
    assert np.bincount(row).max() < 2.5 * 400 / len(others)
  shuffled = draw(jax.random.key(0), ids[::-1], labels, 400)
  np.testing.assert_array_equal(shuffled[::-1], drawn)


@pytest.mark.whole
def test_crd_remembers_the_examples_of_the_batch_and_nothing_of_padding():
  batch = BATCH | {'mask': np.array([1, 1, 0, 1, 1], np.float32)}
  params, stats = CRD.init(jax.random.key(0), S32, T32, batch)
  _, new = CRD.loss(params, stats, S32, T32, batch, step=0, rng=jax.random.key(1))
  for side in ('student', 'teacher'):
    changed = np.any(np.array(new['bank'][side] != stats['bank'][side]), 1)
    np.testing.assert_array_equal(np.flatnonzero(changed), [0, 3, 4, 9])
    np.testing.assert_allclose(jnp.linalg.norm(new['bank'][side][changed], axis=1), 1, rtol=1e-5)
  np.testing.assert_array_equal(new['label'], [2, -2, -3, 0, -5, -6, -7, -8, -9, 2])
  _, later = CRD.loss(params, new, S32, T32, batch, step=1, rng=jax.random.key(2))
  assert later['z'] == new['z'] and new['z']['student'] > 0


def test_crd_stops_at_an_id_that_it_has_no_place_for():
  params, stats = CRD.init(jax.random.key(0), S32, T32, BATCH)
  assert np.isnan(second_writing.loss(CRD, params, stats, S32, T32, BATCH | {'id': BATCH['id'] + 1}))
  with pytest.raises(KdjaxError, match="'id'"):
    second_writing.loss(CRD, params, stats, S32, T32, {'label': LABEL})


def test_views_of_different_shapes_are_refused():
  method = registry.make('methods', 'sskd', {})
  with pytest.raises(KdjaxError, match='all of one shape'):
    method.init(jax.random.key(0), S32 | {'view2/embed': np.zeros((B, 7), np.float32)}, T32, BATCH)


@pytest.mark.parametrize('hidden', [0, 4])
def test_seed_against_a_second_writing(hidden):
  options = {'size': 7, 'hidden': hidden, 'student_temperature': 0.5, 'teacher_temperature': 0.3}
  with jax.enable_x64(True):
    method = registry.make('methods', 'seed', options)
    queue = np.asarray(method.init(jax.random.key(1), S, T, BATCH)[1]['queue'])
    np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-6)

  def writing(s, t, params, still):
    total = 0
    for a, b in zip(s['embed'], t['embed'], strict=True):
      if hidden:
        a = np.maximum(a @ params['hidden']['kernel'] + params['hidden']['bias'], 0)
      v, w = unit(a @ params['out']['kernel'] + params['out']['bias']), unit(b)
      others = [w, *queue]
      p = np.exp(log_softmax(np.array([w @ d / 0.3 for d in others])))
      total -= p @ log_softmax(np.array([v @ d / 0.5 for d in others]))
    return total / B

  second_writing.check(method, writing, S, T, BATCH)


def test_the_queue_holds_the_last_examples_that_are_no_padding():
  rng, held = np.random.default_rng(0), []
  queue, place = jnp.full((7, 2), -1.0), 0
  for n in (3, 5, 4, 9, 1):
    rows, mask = rng.normal(size=(n, 2)).astype(np.float32), (rng.random(n) < 0.7).astype(np.float32)
    held = (held + [tuple(row) for row, m in zip(rows, mask, strict=True) if m])[-7:]
    queue, place = appended(queue, place, rows, mask)
    rows = {tuple(row) for row in np.asarray(queue)}
    assert set(held) <= rows and len(rows - {(-1.0, -1.0)}) == len(held)


def test_seed_remembers_the_teachers_directions():
  method = registry.make('methods', 'seed', {'size': 6})
  params, stats = method.init(jax.random.key(0), S32, T32, BATCH)
  batch = BATCH | {'mask': np.array([1, 1, 0, 1, 1], np.float32)}
  _, new = method.loss(params, stats, S32, T32, batch, step=0, rng=jax.random.key(0))
  wanted = [unit(row) for i, row in enumerate(T32['embed']) if i != 2]
  np.testing.assert_allclose(new['queue'][:4], wanted, rtol=1e-5)
  np.testing.assert_array_equal(new['queue'][4:], stats['queue'][4:])
  assert new['place'] == 4
