"""Second writings, in NumPy loops, of methods of language models that have more than one input a token."""

import jax
import numpy as np
import pytest
from test_sequence import LOGITS, SEED, example, kl, softmax

import taps
from configs import instructions
from kdjax.experiment import stages
from kdjax.experiment.experiment import Experiment
from kdjax.methods.sequence.distillm2 import distillm2
from kdjax.methods.sequence.dskd import dskd
from kdjax.recipes import model, training
from kdjax.training.metrics_log import read_log

HERE = {'mask': 'text/target', 'student': 'logits', 'teacher': 'logits'}
OWN = np.arange(taps.B) % 3 == 0


def mixed(a, b, share):
  return share * a + (1 - share) * b


def responses(s, t, batch):
  """(whether the student wrote it, [(q, p, token)]) of each response."""
  for i in range(taps.B - 3):
    valid = np.flatnonzero(batch['text/mask'][i])
    yield (
      OWN[i],
      [(softmax(s[LOGITS][i, n]), softmax(t[LOGITS][i, n]), batch['text/target'][i, n]) for n in valid],
    )


def gap_of(own, tokens):
  q, p = (np.exp(np.mean([np.log(x[k][x[2]]) for x in tokens])) for k in (0, 1))
  return q - p if own else p - q


def contrastive(s, t, batch, still, means=None, beta=1.0, released=False):
  """`means` are m of the teacher's and of the student's responses, None for the first batches."""
  values = []
  for (own, tokens), (_, fixed) in zip(responses(s, t, batch), responses(still, t, batch), strict=True):
    alpha = 0.1
    if means is not None:
      alpha = min(max(1 - 0.9 * means[int(own)] / gap_of(own, fixed), 0.01), 0.1)
    if own:
      held = [x[0] for x in (fixed if released else tokens)]
      values.append(
        beta * np.mean([kl(q, mixed(h, p, alpha)) for (q, p, _), h in zip(tokens, held, strict=True)])
      )
    else:
      values.append((2 - beta) * np.mean([kl(p, mixed(p, q, alpha)) for q, p, _ in tokens]))
  return np.mean(values)


def directional(f, x, h=1e-5):
  """(a direction, the difference quotient of f along it)."""
  along = np.random.default_rng(0).normal(size=x.shape)
  return along, (f(x + h * along) - f(x - h * along)) / (2 * h)


def test_distillm2_against_a_second_writing():
  with jax.enable_x64(True):
    s, t, batch = example()
    batch['text/by_student'] = OWN
    means = {'batches': np.ones(2), 'gap': np.array([0.02, 0.015])}
    for stats, step, more, options in (
      (None, 0, {}, {}),
      (means, 25, {'means': means['gap'], 'beta': 1.25}, {}),
      (means, 80, {'means': means['gap'], 'beta': 1.5}, {}),
      (None, 80, {'released': True}, {'released': True}),
    ):
      method = distillm2(anchor=1, steps=100, last=0.5, **options)
      kept = stats if stats is not None else method.init(SEED, s, t, batch)[1]

      def value(x, method=method, kept=kept, step=step):
        (total, count), _ = method.loss({}, kept, {LOGITS: x}, t, batch, step=step, rng=SEED)
        return total / count

      result, grad = jax.value_and_grad(value)(s[LOGITS])
      written = lambda x, more=more: contrastive({LOGITS: x}, t, batch, s, **more)  # noqa: E731
      np.testing.assert_allclose(result, written(s[LOGITS]), rtol=1e-9)
      along, slope = directional(written, s[LOGITS])
      np.testing.assert_allclose(np.sum(grad * along), slope, rtol=1e-6)


def test_distillm2_measures_the_gaps_of_the_first_batches():
  with jax.enable_x64(True):
    s, t, batch = example()
    gaps = [(own, gap_of(own, tokens)) for own, tokens in responses(s, t, batch)]
    batch['text/by_student'] = OWN
    method = distillm2(anchor=1)
    _, stats = method.init(SEED, s, t, batch)

    def new(stats, batch):
      return method.loss({}, stats, s, t, batch, step=0, rng=SEED)[1]

    one = new(stats, batch)
    share = np.mean([own for own, _ in gaps])
    np.testing.assert_allclose(one['batches'], [1 - share, share], rtol=1e-6)
    means = [np.mean([g for own, g in gaps if own == who]) for who in (False, True)]
    np.testing.assert_allclose(one['gap'] / one['batches'], means, rtol=1e-6)
    full = {'batches': np.array([1.0, 0.5]), 'gap': np.array([0.2, 0.1])}
    assert new(full, batch)['gap'][0] == 0.2, 'm stays what it was'
    alone = {k: v for k, v in batch.items() if k != 'text/by_student'}
    assert new(stats, alone)['batches'].tolist() == [1, 0], (
      'without the key all are of the teacher or the data'
    )


D, E, M, W = 4, 6, 7, 9  # widths, and the teacher's positions and vocabulary


def crossing(seed=0):
  """Taps and a batch in float64 of two models with a tokenizer each."""
  rng, b = np.random.default_rng(seed), 3

  def of(length, width, rows):
    return {
      'text/logits': rng.normal(size=(b, length, rows)),
      'text/tokens': rng.normal(size=(b, length, width)),
      'text/words': rng.normal(size=(1, rows, width)),
      'text/head': rng.normal(size=(1, rows, width)),
    }

  batch = {'mask': np.array([1, 1, 0.0]), 'text/mask': np.ones((b, 5))}
  for key, length, rows in (('text', 5, 8), ('text/teacher', M, W)):
    batch[key] = rng.integers(0, rows, (b, length))
    shown = np.arange(length) < rng.integers(2, length + 1, b)[:, None]
    batch[f'{key}/target'] = np.where(shown, rng.integers(0, rows, (b, length)), -100)
  return of(5, D, 8), of(M, E, W), batch


def dense(params, name, x):
  return x @ np.asarray(params[name]['kernel']) + np.asarray(params[name]['bias'])


def two_spaces(s, t, batch, params, still, cross, temperature=2.0):
  """`still` are the student's taps and the parameters that carry no gradient in the student's space."""
  total, count = 0, 0
  fixed_s, fixed = still
  for i in range(2):
    ids = batch['text/target'][i]
    valid = np.flatnonzero(ids >= 0)
    other_ids = batch['text/teacher/target' if cross else 'text/target'][i]
    theirs = np.flatnonzero(other_ids >= 0)
    h, g = s['text/tokens'][i], t['text/tokens'][i]

    def states(params, h=h, g=g, ids=ids, other_ids=other_ids, valid=valid, theirs=theirs, i=i):
      if not cross:
        return dense(params, 'to_teacher', h), dense(params, 'to_student', g)
      words, others = s['text/words'][0], t['text/words'][0] / np.sqrt(np.mean(t['text/words'] ** 2))
      query = np.hstack([words[batch['text'][i]], words[np.maximum(ids, 0)]])
      keys = np.hstack([others[batch['text/teacher'][i]], others[np.maximum(other_ids, 0)]])
      values = np.sqrt(E) * g / np.linalg.norm(g, axis=1, keepdims=True) + keys[:, E:]
      z = dense(params, 'query', query) @ keys.T / np.sqrt(2 * E)
      back, forth = dense(params, 'to_teacher', h), dense(params, 'to_student', values)
      to_student, to_teacher = np.zeros((len(ids), D)), np.zeros((len(other_ids), E))
      for n in valid:
        to_student[n] = softmax(z[n, theirs]) @ forth[theirs]
      for m in theirs:
        to_teacher[m] = softmax(z[valid, m]) @ back[valid]
      return to_teacher, to_student

    to_teacher, to_student = states(params)
    held = states(fixed)[1]
    for n in valid:
      likely = softmax(s['text/head'][0] @ to_student[n])
      total -= np.log(likely[ids[n]])
      if not cross or np.argmax(likely) == ids[n]:
        p = softmax(fixed_s['text/head'][0] @ held[n] / temperature)
        total += kl(p, softmax(s['text/logits'][i, n] / temperature))
    for m in theirs:
      q = softmax(t['text/head'][0] @ to_teacher[m] / temperature)
      total += kl(softmax(t['text/logits'][i, m] / temperature), q)
    count += len(valid)
  return total / count


@pytest.mark.parametrize('cross', [False, True])
def test_dskd_against_a_second_writing(cross):
  with jax.enable_x64(True):
    s, t, batch = crossing()
    if not cross:
      t = {k: v[:, :5] if k in ('text/logits', 'text/tokens') else v for k, v in t.items()}
      t |= {'text/logits': t['text/logits'][..., :8], 'text/head': t['text/head'][:, :8]}
    method = dskd(cross=cross)
    params, stats = method.init(SEED, s, t, batch)
    noise = np.random.default_rng(1)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64) + 0.3 * noise.normal(size=x.shape), params)

    def value(s, params):
      (total, count), _ = method.loss(params, stats, s, t, batch, step=0, rng=SEED)
      return total / count

    result, (to_s, to_params) = jax.value_and_grad(value, (0, 1))(s, params)
    np.testing.assert_allclose(result, two_spaces(s, t, batch, params, (s, params), cross), rtol=1e-9)
    for key in ('text/head', 'text/words'):
      assert np.all(to_s[key] == 0), 'no gradient reaches the weights through the taps'
    for key in ('text/logits', 'text/tokens'):
      along, slope = directional(
        lambda x, key=key: two_spaces(s | {key: x}, t, batch, params, (s, params), cross), s[key]
      )
      np.testing.assert_allclose(np.sum(to_s[key] * along), slope, rtol=1e-6)
    for name, layer in params.items():
      along, slope = directional(
        lambda x, name=name, layer=layer: two_spaces(
          s, t, batch, params | {name: layer | {'kernel': x}}, (s, params), cross
        ),
        layer['kernel'],
      )
      np.testing.assert_allclose(np.sum(to_params[name]['kernel'] * along), slope, rtol=1e-6)


def test_dskd_reads_no_more_of_a_batch_than_its_examples():
  s, t, batch = (jax.tree.map(np.float32, x) for x in crossing())
  batch = {k: v if 'mask' in k else v.astype(np.int32) for k, v in batch.items()}
  method = dskd(cross=True)
  params, _ = method.init(SEED, s, t, batch)

  def sums(rows):
    part = [{k: v[rows] if len(v) == 3 else v for k, v in x.items()} for x in (s, t, batch)]
    return np.array(method.loss(params, {}, *part, step=0, rng=SEED)[0])

  np.testing.assert_allclose(sums([0]) + sums([1, 2]), sums([0, 1, 2]), rtol=1e-5)


def tiny_recipe(arg, positions=14):
  """The recipe of docs/language.md with models of no size."""
  config = instructions.get_config(arg)
  for stage, width in (('teacher', 16), ('student', 8)):
    config[stage].model = model('gpt2', width=width, depth=1, heads=2, mlp=16, positions=positions)
    config[stage].train = training(4, 16, 1e-2)
  config.seeds = 1
  return config


def logged(config, workdir, name):
  """The losses of a method in the training of a recipe."""
  stages.run(experiment := Experiment(config.to_dict(), workdir), ('teacher', 'student'))
  rows = read_log(experiment.folder('student') / 'metrics.jsonl')
  losses = [row[f'loss/{name}'] for row in rows if f'loss/{name}' in row]
  assert losses and np.isfinite(losses).all()
  return experiment, np.array(losses)


@pytest.mark.whole
def test_distillm2_trains_on_both_authors(tmp_path):
  logged(tiny_recipe('smoke=1,method=distillm2,share=0.5'), tmp_path, 'distillm2')


@pytest.mark.whole
def test_dskd_trains_on_the_heads_of_gpt2(tmp_path):
  config = tiny_recipe('smoke=1,method=dskd')
  names = {'hidden': 'tokens', 'teacher_hidden': 'tokens', 'head': 'head', 'teacher_head': 'head'}
  config.methods.dskd.update(names)
  logged(config, tmp_path, 'dskd')
