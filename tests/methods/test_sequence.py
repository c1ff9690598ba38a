"""Second writings, in NumPy loops, of what no golden vector holds, and what must stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import taps
from kdjax import registry
from kdjax.methods.sequence.minillm import minillm
from kdjax.methods.sequence.uld import uld

SEED = jax.random.key(0)
NAMES = sorted(n for n, path in registry.names('methods').items() if '.sequence.' in path)
NAMES = [n for n in NAMES if n != 'dskd']  # those that read logits alone
LOGITS = 'text/logits'


def example():
  """Taps and a batch in float64, its last three examples padding, with what MiniLLM may store."""
  s, t, batch = taps.example()
  s, t = ({LOGITS: 2 * x[LOGITS].astype(np.float64)} for x in (s, t))
  rng = np.random.default_rng(5)
  shape = s[LOGITS].shape[:2]
  batch |= {
    'mask': np.arange(taps.B) < taps.B - 3,
    'old': -rng.uniform(0.1, 3, shape),
    'w': rng.uniform(0.5, 1.5, shape),
  }
  return s, t, batch


def sum_count(method, s, t, batch):
  return method.loss(*method.init(SEED, s, t, batch), s, t, batch, step=0, rng=SEED)[0]


def value(method, s, t, batch):
  total, count = sum_count(method, s, t, batch)
  return total / jnp.maximum(count, 1)


def softmax(z):
  e = np.exp(z - z.max())
  return e / e.sum()


def mean(one):
  """The mean over valid positions of `one(z, y, target)`, logits [V] of the student and the teacher."""

  def writing(s, t, batch):
    values = []
    for i in range(taps.B - 3):
      for n in range(taps.L):
        if batch['text/mask'][i, n]:
          values.append(one(s[LOGITS][i, n], t[LOGITS][i, n], batch['text/target'][i, n]))
    return np.mean(values)

  return writing


@mean
def forward_at_2(z, y, _):
  q, p = softmax(z / 2), softmax(y / 2)
  return 4 * sum(p[v] * np.log(p[v] / q[v]) for v in range(len(p)))


@mean
def seq_kd(z, _, target):
  return -np.log(softmax(z)[target])


def top(z, y, k):
  """Probabilities of the teacher's k most likely tokens: (the student's, the teacher's)."""
  chosen = sorted(range(len(y)), key=lambda v: -y[v])[:k]
  return softmax(z)[chosen], softmax(y)[chosen]


def kl(p, q):
  return np.sum(p * np.log(p / q))


@mean
def renormalised(z, y, _):
  q, p = top(z, y, 3)
  return kl(p / p.sum(), q / q.sum())


@mean
def zero(z, y, _):
  q, p = top(z, y, 3)
  return kl(p, q)


@mean
def tail(z, y, _):
  q, p = top(z, y, 3)
  return kl(np.append(p, 1 - p.sum()), np.append(q, 1 - q.sum()))


@mean
def whole(z, y, _):
  return kl(softmax(y), softmax(z))


@mean
def sorted_l1(z, y, _):
  return np.abs(np.sort(softmax(z)) - np.sort(softmax(y))).sum()


def paper_minillm(whiten=False):
  """Sampled with log-probabilities `old`, importance `w`, gamma 0.9."""

  def writing(s, t, batch):
    exact, ratios, gains, weights = [], [], [], []
    for i in range(taps.B - 3):
      n_tokens = batch['text/mask'][i].sum()
      q = [softmax(s[LOGITS][i, n]) for n in range(n_tokens)]
      p = [softmax(t[LOGITS][i, n]) for n in range(n_tokens)]
      y, old, w = batch['text/target'][i], batch['old'][i], batch['w'][i]
      for n in range(n_tokens):
        later = [0.9 ** (m - n - 1) * (np.log(p[m][y[m]]) - old[m]) for m in range(n + 1, n_tokens)]
        gains.append(sum(later) / max(len(later), 1))
        ratios.append(w[n] * q[n][y[n]] / np.exp(old[n]))
        weights.append(w[n])
        exact.append(kl(q[n], p[n]))
    if whiten:
      gains = (np.array(gains) - np.mean(gains)) / np.std(gains)
    values = []
    for e, r, a, w in zip(exact, ratios, gains, weights, strict=True):
      values.append(w * e + max(-a * r, -a * min(max(r, 0.8), 1.2)))
    return np.mean(values)

  return writing


SAMPLED = {'gamma': 0.9, 'old': 'old', 'importance': 'w'}
WRITINGS = [
  ('forward_kl', {'temperature': 2}, forward_at_2),
  ('seq_kd', {}, seq_kd),
  ('top_k', {'k': 3}, renormalised),
  ('top_k', {'k': 3, 'rest': 'zero'}, zero),
  ('top_k', {'k': 3, 'rest': 'tail'}, tail),
  ('top_k', {}, whole),
  ('top_k', {'rest': 'tail'}, whole),
  ('uld', {}, sorted_l1),
  ('minillm', SAMPLED, paper_minillm()),
  ('minillm', SAMPLED | {'whiten': True}, paper_minillm(whiten=True)),
]


@pytest.mark.parametrize('name, options, writing', WRITINGS)
def test_a_second_writing_agrees_and_the_gradient_is_that_of_the_value(name, options, writing):
  with jax.enable_x64(True):
    s, t, batch = example()
    method = registry.make('methods', name, options)
    along = np.random.default_rng(0).normal(size=s[LOGITS].shape)
    f = jax.jit(jax.value_and_grad(lambda x: value(method, {LOGITS: x}, t, batch)))
    slope = (f(s[LOGITS] + 1e-6 * along)[0] - f(s[LOGITS] - 1e-6 * along)[0]) / 2e-6
    result, grad = f(s[LOGITS])
    np.testing.assert_allclose(result, writing(s, t, batch), rtol=1e-7)
    np.testing.assert_allclose(slope, np.sum(grad * along), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize('rest', ['renormalise', 'zero', 'tail'])
def test_top_k_reads_a_store_of_the_top_scores(rest):
  with jax.enable_x64(True):
    s, t, batch = example()
    scores, ids = jax.lax.top_k(jax.nn.log_softmax(t[LOGITS]), 3)
    stored = registry.make('methods', 'top_k', {'rest': rest, 'indices': 'ids', 'teacher': 'scores'})
    live = registry.make('methods', 'top_k', {'rest': rest, 'k': 3})
    got = value(stored, s, {'scores': scores, 'ids': ids}, batch)
    np.testing.assert_allclose(got, value(live, s, t, batch), rtol=1e-9)


def test_uld_pairs_the_valid_positions_of_two_tokenizers():
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 4, 5)), rng.normal(size=(2, 6, 7))
    batch = {
      'a/mask': np.array([[0, 1, 1, 0], [1, 1, 1, 1]]),
      'b': np.array([[-100, -100, 3, 2, 1, 0], [5, -100, -100, -100, -100, 6]]),
    }
    paired = [(0, 1, 2), (0, 2, 3), (1, 0, 0), (1, 1, 5)]  # example, student's and teacher's position
    wanted = 0
    for i, n, m in paired:
      q, p = np.sort(softmax(s[i, n]))[::-1], np.sort(softmax(t[i, m]))[::-1]
      wanted += np.abs(np.append(q, [0, 0]) - p).sum()
    method = uld(mask='a/mask', teacher_mask='b')
    total, count = sum_count(method, {LOGITS: s}, {LOGITS: t}, batch)
    assert count == 4
    np.testing.assert_allclose(total, wanted, rtol=1e-12)


@pytest.mark.whole
def test_minillm_is_on_average_the_gradient_of_the_reverse_kl_of_two_tokens():
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    n = 3
    student, teacher = ({'first': rng.normal(size=n), 'then': rng.normal(size=(n, n))} for _ in range(2))
    sequences = np.array([(a, b) for a in range(n) for b in range(n)])

    def logits(model):
      """Of all sequences of two tokens, `[n², 2, n]`."""
      first = jnp.broadcast_to(model['first'], (n * n, n))
      return jnp.stack([first, jnp.asarray(model['then'])[sequences[:, 0]]], 1)

    def log_probability(model):
      logs = jax.nn.log_softmax(logits(model))
      return jnp.take_along_axis(logs, sequences[..., None], -1).sum((1, 2))

    def sequence_kl(model):
      log_q = log_probability(model)
      return jnp.sum(jnp.exp(log_q) * (log_q - log_probability(teacher)))

    def surrogate(model):
      def one(z, y, tokens):
        batch = {'text/target': tokens[None]}
        method = minillm(gamma=1, mask=None)
        return sum_count(method, {LOGITS: z[None]}, {LOGITS: y[None]}, batch)[0]

      each = jax.vmap(one)(logits(model), logits(teacher), sequences)
      return jnp.sum(jax.lax.stop_gradient(jnp.exp(log_probability(model))) * each)

    got, wanted = jax.grad(surrogate)(student), jax.grad(sequence_kl)(student)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, wanted)


ZERO = [n for n in NAMES if n not in ('alm', 'seq_kd', 'minillm')]


@pytest.mark.parametrize('name', ZERO)
def test_it_is_zero_where_student_and_teacher_agree(name):
  _, t, batch = example()
  assert abs(value(registry.make('methods', name, {}), t, t, batch)) < 1e-6


@pytest.mark.parametrize('name', NAMES)
def test_it_stays_finite(name):
  s, t, batch = taps.example()
  s, t = ({LOGITS: x[LOGITS]} for x in (s, t))
  method = registry.make('methods', name, {})
  step = jax.jit(jax.value_and_grad(lambda s, t, batch: sum_count(method, s, t, batch), has_aux=True))
  # A token of the vocabulary that is no target, by one model, the other and both.
  out = [{LOGITS: x[LOGITS].copy()} for x in (s, t)]
  for x, tokens in zip(out, ((8, 10), (9, 10)), strict=True):
    x[LOGITS][..., tokens] = -np.inf
  cases = {
    'saturated': (*({LOGITS: 1e4 * np.sign(x[LOGITS])} for x in (s, t)), batch),
    'all masked': (s, t, batch | {'mask': np.zeros(taps.B, np.float32)}),
    'equal': (t, t, batch),
    'ruled out': (*out, batch | {'text/target': batch['text/target'] % 8}),
  }
  for case, inputs in cases.items():
    (total, count), grads = step(*inputs)
    assert all(np.isfinite(x).all() for x in (total, count, grads[LOGITS])), case
    if case == 'all masked':
      assert total == 0 and count == 0
