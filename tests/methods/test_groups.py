"""Captions of one image are no negatives of each other: second writings, in NumPy loops, with groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from second_writing import info_nce_gradients

import taps
from kdjax import registry

GROUP = np.array([3, 3, 1, 0, 1, 7, 3, 8, 9, 9, 4, 5], np.int32)
REAL = taps.B - 2
SEED = jax.random.key(0)


def example():
  """Float64 taps and a batch of pairs in groups, its last two padding."""
  s, t, batch = taps.example()
  s, t = ({k: x.astype(np.float64) for k, x in tree.items()} for tree in (s, t))
  return s, t, batch | {'group': GROUP, 'mask': np.arange(taps.B) < REAL, 'label': np.arange(taps.B)}


def value(method, params, s, t, batch):
  (total, count), _ = method.loss(params, {}, s, t, batch, step=0, rng=SEED)
  return total / jnp.maximum(count, 1)


def unit(x):
  return np.asarray(x)[:REAL] / np.linalg.norm(np.asarray(x)[:REAL], axis=1, keepdims=True)


def linear(params, x):
  return unit(np.asarray(x) @ np.asarray(params['kernel']) + np.asarray(params['bias']))


def others(i):
  return [j for j in range(REAL) if j != i and GROUP[j] != GROUP[i]]


def cross_entropy(scores, i):
  """Of the right answer i against those of other groups."""
  return np.log(sum(np.exp(scores[j]) for j in [i, *others(i)])) - scores[i]


def info_nce(a, b, scale):
  return np.mean([cross_entropy(scale * b @ x, i) for i, x in enumerate(a)])


def projected(params, s):
  return [linear(params[k], s[f'{k}/embed']) for k in ('image', 'text')]


def icl(params, s, t):
  (v, w), c = projected(params['projection'], s), np.exp(params['logit_scale'])
  return (info_nce(v, unit(t['text/embed']), c) + info_nce(w, unit(t['image/embed']), c)) / 2


def afd(params, s, t):
  def both(k):
    norms = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (s[f'{k}/embed'], t[f'{k}/embed'])]
    return linear(params[k], np.hstack(norms))

  image, text, c = both('image'), both('text'), np.exp(params['logit_scale'])
  return (info_nce(image, text, c) + info_nce(text, image, c)) / 2


def gd(params, s, t):
  student = info_nce_gradients(info_nce, *projected(params, s), np.exp(s['logit_scale']))
  teacher = info_nce_gradients(
    info_nce, unit(t['image/embed']), unit(t['text/embed']), np.exp(t['logit_scale'])
  )
  return sum(np.mean((a - b) ** 2) for a, b in zip(student, teacher, strict=True))


def crd_in_batch(params, s, t):
  v, w = (linear(params[k], x['embed']) for k, x in (('student', s), ('teacher', t)))
  return (info_nce(v, w, 1 / 0.07) + info_nce(w, v, 1 / 0.07)) / 2


def sskd(params, s, t):
  def cosines(x):
    return [unit(x[f'view{i}/embed']) @ unit(x['embed']).T for i in (1, 2, 3)]

  right, wrong = [], []
  for q, p in zip(cosines(s), cosines(t), strict=True):
    for i in range(REAL):
      rank = sum(p[i, j] > p[i, i] for j in others(i))
      gap = max(p[i, j] for j in [i, *others(i)]) - p[i, i]
      a, b = (x[i] / 0.5 - np.log(sum(np.exp(x[i] / 0.5))) for x in (p, q))
      (wrong if rank else right).append((rank, gap, 0.25 * sum(np.exp(a) * (a - b))))
  kept = right + sorted(wrong)[: int(0.75 * len(wrong))]
  return np.mean([entry[2] for entry in kept])


WRITINGS = [
  ('clip_icl', {}, icl, 1e-9),
  ('clip_afd', {}, afd, 1e-9),
  ('clip_gd', {}, gd, 1e-6),  # of differences
  ('crd_in_batch', {}, crd_in_batch, 1e-9),
  ('crd_in_batch', {'same_label': True}, crd_in_batch, 1e-9),
  ('sskd', {'head': False}, sskd, 1e-9),
]


@pytest.mark.parametrize('name, options, writing, tolerance', WRITINGS)
def test_a_second_writing_agrees(name, options, writing, tolerance):
  with jax.enable_x64(True):
    s, t, batch = example()
    method = registry.make('methods', name, options)
    params = jax.tree.map(lambda x: x.astype(jnp.float64), method.init(SEED, s, t, batch)[0])
    result = value(method, params, s, t, batch)
    np.testing.assert_allclose(result, writing(params, s, t), rtol=tolerance)
    alone = value(method, params, s, t, {k: v for k, v in batch.items() if k != 'group'})
    assert abs(result - alone) > 1e-3 * abs(alone)  # the groups make a difference
    apart = value(method, params, s, t, batch | {'group': np.arange(taps.B)})
    np.testing.assert_allclose(apart, alone, rtol=1e-12)


def test_clip_kd_is_the_sum_of_its_terms_in_groups():
  with jax.enable_x64(True):
    s, t, batch = example()
    whole = registry.make('methods', 'clip_kd', {})
    params = jax.tree.map(lambda x: x.astype(jnp.float64), whole.init(SEED, s, t, batch)[0])
    weights = {'clip_fd': (2000, params['projection']), 'clip_icl': (1, params), 'clip_crd': (1, {})}
    terms = [w * value(registry.make('methods', n, {}), p, s, t, batch) for n, (w, p) in weights.items()]
    np.testing.assert_allclose(value(whole, params, s, t, batch), sum(terms), rtol=1e-12)


SOFT = ('clip_crd', 'clip_cross_kd', 'clip_fd', 'tinyclip', 'mobileclip', 'siglip')


@pytest.mark.parametrize('name', SOFT)
def test_what_the_teacher_gives_is_matched_whatever_the_groups(name):
  s, t, batch = taps.example()
  method = registry.make('methods', name, {})
  params, _ = method.init(SEED, s, t, batch)
  assert value(method, params, s, t, batch) == value(method, params, s, t, batch | {'group': GROUP})


def test_the_head_of_sskd_learns_to_tell_groups_apart():
  with jax.enable_x64(True):
    _, t, batch = example()
    method = registry.make('methods', 'sskd', {})
    head = jax.tree.map(lambda x: x.astype(jnp.float64), method.init(SEED, t, t, batch)[0]['teacher'])

    def seen(x):
      x = np.maximum(x @ np.asarray(head['in']['kernel']) + np.asarray(head['in']['bias']), 0)
      return linear(head['out'], x)

    known = seen(t['embed'])
    cosines = [seen(t[f'view{i}/embed']) @ known.T for i in (1, 2, 3)]
    wanted = np.mean([cross_entropy(c[i], i) for c in cosines for i in range(REAL)])
    # A student that is the teacher has no KL: what is left is the head's task.
    result = value(method, {'student': head, 'teacher': head}, t, t, batch)
    np.testing.assert_allclose(result, wanted, rtol=1e-9)
