"""Methods for language models that read images: second writings in NumPy, and trainings of a few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import second_writing

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.nn import functional, layers
from kdjax.recipes import model
from kdjax.training import step

B, L, V, P, H = 3, 4, 5, 3, 2
RNG = np.random.default_rng(0)
VALID = np.arange(L) < np.array([[4], [2], [0]])
BATCH = {'text/mask': VALID, 'label': np.zeros(B, np.int32)}


def taps(width, heads):
  return {
    'text/logits': RNG.normal(size=(B, L, V)),
    'image_logits': RNG.normal(size=(B, P, V)),
    'image_tokens': RNG.normal(size=(B, P, width)),
    'image_attention1': RNG.normal(size=(B, heads, L, P + 1)),
  }


S, T = taps(2, H), taps(3, H + 1)


def softmax(z):
  return np.exp(z) / np.sum(np.exp(z))


def kl(p, q):
  p, q = softmax(p), softmax(q)
  return p @ (np.log(p) - np.log(q))


def dense(x, layer):
  return x @ np.asarray(layer['kernel']) + np.asarray(layer['bias'])


def over_words(function, i):
  values = [function(j) for j in range(L) if VALID[i, j]]
  return np.mean(values) if values else 0


def relations(y):
  gram = np.array([[a @ b for a in y] for b in y]).ravel()
  return gram / np.linalg.norm(gram)


def llava_kd(s, t, params, still):
  total = 0
  for i in range(B):
    total += over_words(lambda j, i=i: kl(t['text/logits'][i, j], s['text/logits'][i, j]), i)
    a, b = s['image_logits'][i], t['image_logits'][i]
    total += 2 * np.mean([kl(p, q) for p, q in zip(b, a, strict=True)])
    total += 3 * (1 - relations(a) @ relations(b))
  return total / B


def align_kd(released):
  def writing(s, t, params, still):
    def look(x, i, j):
      return np.mean([softmax(z) for z in x['image_attention1'][i, :, j]], 0)

    def differs(i, j):
      p, q = look(t, i, j), look(s, i, j)
      return H * np.mean(p[:P] * np.log(p[:P] / q[:P])) if released else np.sum(p * np.log(p / q))

    total = 0
    for i in range(B):
      said = over_words(lambda j, i=i: kl(t['text/logits'][i, j], s['text/logits'][i, j]), i)
      total += 2 * said + 3 * over_words(lambda j, i=i: differs(i, j), i)
      far = np.mean((dense(t['image_tokens'][i], params) - s['image_tokens'][i]) ** 2, -1)
      focus = sum((look(t, i, j)[:P] for j in range(L) if VALID[i, j]), np.zeros(P))
      best = np.argsort(-focus, kind='stable')[:2]
      total += 4 * (far.mean() + 0.1 * far[best].mean())
    return total / B

  return writing


def test_llava_kd_by_hand():
  method = registry.make('methods', 'llava_kd', {'visual': 2, 'relation': 3})
  s = {k: S[k] for k in ('text/logits', 'image_logits')}
  second_writing.check(method, llava_kd, s, T, BATCH)


@pytest.mark.parametrize('released', [False, True])
def test_align_kd_by_hand(released):
  options = {'words': 2, 'attention': 3, 'visual': 4, 'k': 2, 'released': released}
  method = registry.make('methods', 'align_kd', options)
  s = {k: S[k] for k in S if k != 'image_logits'}
  writing = align_kd(released)
  if not released:
    return second_writing.check(method, writing, s, T, BATCH)
  params, stats = method.init(jax.random.key(1), *(jax.tree.map(np.float32, x) for x in (s, T)), BATCH)
  value = second_writing.loss(method, params, stats, *(jax.tree.map(np.float32, x) for x in (s, T)), BATCH)
  np.testing.assert_allclose(value, writing(s, T, params, None), rtol=1e-5)


@pytest.mark.parametrize('name', ['llava_kd', 'align_kd', 'move_kd'])
def test_it_stays_finite(name):
  own = {k: RNG.normal(size=(B, n, w)) for k, n, w in (('image/tokens', 4, 2), ('c', 2, 2))}
  own['image/attention2'] = RNG.normal(size=(B, H, 4, 4))
  options = {'teachers': ('image/tokens', 'c')} if name == 'move_kd' else {}
  s, t = (
    {**S, **own},
    {**T, **own, 'image_attention1': S['image_attention1'], 'image_tokens': S['image_tokens']},
  )
  second_writing.check_finite(registry.make('methods', name, options), s, t, BATCH, name == 'llava_kd')


MOVE = {'teachers': ('main', 'map', 'other'), 'attention': 'scores'}


def move_case(width):
  s = {'image/tokens': RNG.normal(size=(B, 1 + P, 2))}
  t = {'main': RNG.normal(size=(B, 1 + P, width)), 'map': RNG.normal(size=(B, 2, 1, 3))}
  t |= {'other': RNG.normal(size=(B, 4, 2)), 'scores': RNG.normal(size=(B, H, 1 + P, 1 + P))}
  return s, t


def gelu(x):
  return 0.5 * x * (1 + np.vectorize(lambda v: float(jax.scipy.special.erf(v / np.sqrt(2))))(x))


def move_kd(width, released):
  def adapted(params, t, i):
    tokens = [t['main'][i, 1:], t['map'][i].reshape(2, 3), t['other'][i]]
    for j, x in enumerate(tokens):
      if f'values{j}' in params:
        tokens[j] = dense(gelu(dense(x, params[f'values{j}'])).T, params[f'places{j}']).T
    return tokens

  def writing(s, t, params, still):
    total = 0
    for i in range(B):
      rows = [softmax(z[0]) for z in t['scores'][i]]
      a = softmax(np.mean(rows, 0)[1:]) if released else np.mean([r[1:] / sum(r[1:]) for r in rows], 0)
      token = t['main'][i, 0] if width == 2 else still[0]['image/tokens'][i, 0]
      fixed = adapted(still[1], t, i)
      w = [0.7, *(0.3 * softmax(np.array([token @ x.mean(0) for x in fixed[1:]])))]
      for weight, x in zip(w, adapted(params, t, i), strict=True):
        d = np.mean((s['image/tokens'][i, 1:] - x) ** 2, -1)
        total += weight * (d.mean() + a @ d) / B
    return total

  return writing


@pytest.mark.parametrize(('width', 'released'), [(2, False), (4, False), (2, True)])
def test_move_kd_by_hand(width, released):
  s, t = move_case(width)
  with jax.enable_x64(True):
    method = registry.make('methods', 'move_kd', MOVE | {'first': 0.7, 'released': released})
    second_writing.check(method, move_kd(width, released), s, t, BATCH)


def test_move_kd_says_what_does_not_fit():
  s, t = (jax.tree.map(np.float32, x) for x in move_case(4))
  for options, match in (
    ({'attention': 'main'}, 'as many patches'),
    ({'class_token': False}, 'class_token says whether'),
  ):
    method = registry.make('methods', 'move_kd', MOVE | options)
    with pytest.raises(KdjaxError, match=match):
      method.init(jax.random.key(0), s, t, BATCH)
  method = registry.make('methods', 'move_kd', MOVE | {'class_token': False})
  with pytest.raises(KdjaxError, match='a first teacher of that width'):
    method.init(jax.random.key(0), {'image/tokens': s['image/tokens'][:, 1:]}, t, BATCH)


def test_align_kd_says_what_does_not_fit():
  method = registry.make('methods', 'align_kd', {})
  s, t = (jax.tree.map(np.float32, x) for x in (S, T))
  t['image_attention1'] = t['image_attention1'][..., :-1]
  params, stats = method.init(jax.random.key(0), s, t, BATCH)
  with pytest.raises(KdjaxError, match='of 3 tokens of the image'):
    method.loss(params, stats, s, t, BATCH, step=0, rng=None)


def test_what_is_attended_to_in_an_image():
  """The softmax of the scores at the image's places and the rest is that of all places."""
  scores = jnp.float32(RNG.normal(size=(2, H, 3, 6)))
  seen = jnp.asarray(RNG.random((2, 1, 3, 6)) < 0.8)
  placed = jnp.asarray([[0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool)
  result = jax.nn.softmax(layers.image_scores(scores, seen, placed, 2))
  wanted = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
  np.testing.assert_allclose(result[0, ..., :2], wanted[0][..., [1, 3]], rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(result.sum(-1), 1, rtol=1e-6)
  np.testing.assert_array_equal(result[1, ..., :2], 0)


WORDS, IMAGES = 20, 4
ENCODER = {'depth': 2, 'heads': 2, 'mlp': 16, 'patch': 4}


def vision_language(width, prefix=True):
  return model(
    'vision_language',
    image=model('siglip_image', width=width, pool='mean', **ENCODER),
    text=model('llama', width=width, depth=1, heads=2, groups=1, mlp=16, positions=16, vocab_size=WORDS),
    shuffle=2,
    image_token=3,
    prefix=prefix,
  )


def captioner(width, join='prefix'):
  encoder = model('resnet', widths=(4, 8), blocks=(0, 1), patch=4)
  return model(
    'captioner', join=join, width=width, depth=2, heads=2, positions=16, vocab_size=WORDS, encoder=encoder
  )


def functions(net):
  return functional.functions(build.module(net, {}), {})


def batch(inside=False):
  ids = RNG.integers(4, WORDS, (6, 9)).astype(np.int32)
  if inside:
    ids[:, 1:5] = 3  # the places of an image of 4 tokens
  mask = np.arange(9) < np.array([[9], [7], [6], [9], [8], [6]])
  target = np.where(mask, np.roll(ids, -1, 1), -100).astype(np.int32)
  image = RNG.integers(0, 255, (6, 16, 16, 3)).astype(np.uint8)
  return {'image': image, 'text': ids, 'text/mask': mask, 'text/target': target, 'id': np.arange(6)}


def train(student, teacher, methods, batch, n=3):
  """The losses of n steps of the student's update on one batch, whose teacher is not trained."""
  task = build.task({'name': 'language_modelling'})
  weights = jax.jit(teacher.init)(jax.random.key(9), batch)
  _, t = jax.jit(step.make_teacher_forward(teacher, lambda batch: batch))(weights, batch)
  method, tx = build.method(methods, n), optax.adam(0.01)
  state, losses = jax.jit(step.make_init(student, method, tx))(0, t, batch), []
  update = jax.jit(step.make_update(student, task, method, tx))
  for _ in range(n):
    state, loss = update(state, t, batch)
    losses.append({k: float(total / count) for k, (total, count) in loss.items()})
  assert all(np.isfinite(v) for loss in losses for v in loss.values())
  return losses


TEXTS = {'mask': 'text/target', 'student': 'logits', 'teacher': 'logits'}
MEMORY = {'student_tokens': 'memory', 'teacher_tokens': 'memory'}


@pytest.mark.whole
@pytest.mark.parametrize('inside', [False, True])
def test_a_vision_language_model_learns_by_both(inside):
  student, teacher = (functions(vision_language(width, not inside)) for width in (8, 16))
  losses = train(student, teacher, {'llava_kd': TEXTS, 'align_kd': TEXTS | {'k': 2}}, batch(inside))
  assert all(losses[-1][k] < losses[0][k] for k in ('llava_kd', 'align_kd'))


@pytest.mark.whole
@pytest.mark.parametrize('join', ['prefix', 'cross'])
def test_a_captioner_learns_by_both(join):
  student, teacher = (functions(captioner(width, join)) for width in (8, 16))
  methods = {'align_kd': TEXTS | MEMORY} | ({'llava_kd': TEXTS} if join == 'prefix' else {})
  losses = train(student, teacher, methods, batch())
  assert all(losses[-1][k] < losses[0][k] for k in methods)


@pytest.mark.whole
def test_the_places_of_the_image_are_the_same_before_the_text_and_in_it():
  given = batch()
  ids, mask = (
    np.pad(given[k], ((0, 0), (IMAGES, 0)), constant_values=v) for k, v in (('text', 3), ('text/mask', True))
  )
  before, within = functions(vision_language(8)), functions(vision_language(8, False))
  weights = before.init(jax.random.key(0), given)
  one, other = (
    before.apply(weights, given)[0],
    within.apply(weights, given | {'text': ids, 'text/mask': mask})[0],
  )
  np.testing.assert_allclose(one['image_logits'], other['image_logits'], atol=1e-5)
  np.testing.assert_allclose(other['image_logits'], other['logits'][:, :IMAGES], atol=1e-6)
  a, b = (jax.nn.softmax(x['image_attention1'][:, :, -9:]) for x in (one, other))
  np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.whole
def test_an_encoder_learns_from_three():
  vit = {'depth': 2, 'heads': 2, 'mlp': 16, 'patch': 4}
  members = {
    'clip': model('vit_class_token', width=8, clip=True, **vit),
    'conv': model('convnext', depths=(1, 1), widths=(6, 12)),
    'other': model('vit', width=12, depth=1, heads=2, patch=8),
  }
  options = {'teachers': ('clip/tokens', 'conv/stage2', 'other/tokens'), 'attention': 'clip/attention2'}
  image = {
    'image': model('vit_class_token', width=8, **vit),
    'text': model('bag_of_words', width=4, vocab_size=20),
  }
  student = functions(model('fusion', encoders=image, width=4, num_classes=3))
  given = batch() | {'label': np.array([0, 1, 2, 0, 1, 2], np.int32)}
  teacher, method = functions(model('ensemble', members=members)), build.method({'move_kd': options}, 3)
  t = teacher.apply(teacher.init(jax.random.key(1), given), given)[0]
  state = step.make_init(student, method, optax.adam(0.01))(0, t, given)
  update = jax.jit(
    step.make_update(student, build.task({'name': 'classification'}), method, optax.adam(0.01))
  )
  losses = []
  for _ in range(3):
    state, loss = update(state, t, given)
    losses.append(float(loss['move_kd'][0] / loss['move_kd'][1]))
  assert losses[-1] < losses[0]
