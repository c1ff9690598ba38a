"""Methods of language models that read more than two scores a token: second writings, and short trainings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sequence import LOGITS, SEED, example, kl, softmax
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import taps
from configs import instructions
from kdjax.errors import KdjaxError
from kdjax.experiment import stages
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.validate import check
from kdjax.input import chunks, tokenizer
from kdjax.input.encode import make_encode
from kdjax.methods.sequence.alm import alm
from kdjax.methods.sequence.distillm2 import distillm2
from kdjax.methods.sequence.dskd import dskd
from kdjax.methods.sequence.minillm import minillm
from kdjax.recipes import model, training
from kdjax.training.metrics_log import read_logs
from kdjax.training.schemes import on_policy
from kdjax.types import Model

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


def bernoulli_kl(p, q):
  return kl(np.array([p, 1 - p]), np.array([q, 1 - q]))


@pytest.mark.parametrize('of_tokens', [False, True])
def test_alm_against_a_second_writing(of_tokens):
  """With the teacher's scores, and with its likelihoods of the tokens alone."""
  with jax.enable_x64(True):
    s, t, batch = crossing()
    batch['text/chunk'] = np.array([[0, 0, 1, 2, -1]] * 3)
    batch['text/teacher/chunk'] = np.array([[0, 1, 1, 1, 2, 2, 3]] * 3)
    tau = 3.0
    rows = zip(t[LOGITS], batch['text/teacher/target'], strict=True)
    logs = np.log([[softmax(z)[max(y, 0)] for z, y in zip(*row, strict=True)] for row in rows])

    def written(x):
      values = []
      for i in range(2):
        for c in range(4):
          mine = np.flatnonzero((batch['text/chunk'][i] == c) & (batch['text/target'][i] >= 0))
          theirs = np.flatnonzero(
            (batch['text/teacher/chunk'][i] == c) & (batch['text/teacher/target'][i] >= 0)
          )
          if len(mine) and len(theirs):
            q = np.prod([softmax(x[i, n])[batch['text/target'][i, n]] for n in mine])
            p = np.prod([np.exp(logs[i, m]) for m in theirs])
            values.append(bernoulli_kl(p ** (1 / tau), q ** (1 / tau)))
      return np.mean(values)

    given = t if not of_tokens else {LOGITS: logs}

    def value(x, **options):
      (total, count), _ = alm(temperature=tau, **options).loss(
        {}, {}, s | {LOGITS: x}, given, batch, step=0, rng=SEED
      )
      return total / count

    result, grad = jax.value_and_grad(value)(s[LOGITS])
    np.testing.assert_allclose(result, written(s[LOGITS]), rtol=1e-4)  # but for what keeps p below 1
    along, slope = directional(written, s[LOGITS])
    np.testing.assert_allclose(np.sum(grad * along), slope, rtol=1e-4)
    whole = jax.grad(value)(s[LOGITS])
    np.testing.assert_allclose(jax.grad(lambda x: value(x, entropy=False))(s[LOGITS]), whole, atol=1e-12)


TEXTS = ['the cat sat on a mat', 'café  naïve', '日本 語', 'x', '', 'a🙂b the mat', 'cats cat the the ']


def byte_level(size):
  """A byte-level BPE of these texts with an end."""
  made = Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(
    vocab_size=size, special_tokens=['<|endoftext|>'], initial_alphabet=alphabet, show_progress=False
  )
  made.train_from_iterator(TEXTS * 5, trainer)
  return made


def test_chunks_are_the_same_text_on_both_sides():
  few, many = (tokenizer.cut(byte_level(n), 40) for n in (257, 300))
  assert tokenizer.size(few) < tokenizer.size(many)
  encode = make_encode(few, prompt_length=4, teacher=many)
  batch = encode([{'text': 'the', 'response': r} for r in TEXTS])
  seen = 0
  for row, response in enumerate(TEXTS):
    parts = []
    for key, own in (('text', few), ('text/teacher', many)):
      names, chunk = tokenizer.vocabulary(own), batch[f'{key}/chunk'][row]
      target = batch[f'{key}/target'][row]
      assert ((chunk >= 0) == (target >= 0)).all(), 'none is left out of a text that is whole'
      parts.append([''.join(names[i] for i in target[chunk == c]) for c in range(chunk.max() + 1)])
      assert parts[-1][-1] == '<|endoftext|>'
      assert decoders.ByteLevel().decode(parts[-1][:-1]) == response
    assert parts[0] == parts[1]
    seen += sum(len(p) > 1 for p in parts[0][:-1])
  assert seen, 'some chunks are of several tokens'


def test_chunks_of_words_and_of_a_text_that_is_cut():
  words = tokenizer.cut(tokenizer.train(TEXTS, 50, end=True), 6)
  pieces = tokenizer.cut(byte_level(257), 12)
  batch = make_encode(words, prompt_length=2, teacher=pieces)(
    [{'text': 'a', 'response': r} for r in ('the cat sat on a mat', 'a mat')]
  )
  assert batch['text/teacher/cut'].tolist() == [True, False]
  # Of 11 bytes 'the cat sat' is left: three words, and two that nothing on the other side spells.
  assert batch['text/chunk'].tolist() == [[0, 1, 2, -1, -1, -1], [0, 1, 2, -1, -1, -1]]
  mat = [0, 1, 1, 1, 1, 2] + [-1] * 6
  assert batch['text/teacher/chunk'].tolist() == [[0] * 3 + [1] * 4 + [2] * 4 + [-1], mat]
  a, b = chunks.chunks(np.array([[2, 3, 9]]), np.array([[1, 4, -100]]))
  assert a.tolist() == [[-1] * 3] and b.tolist() == [[-1] * 3], 'no place in common'


OPD = {'single_step': False, 'gamma': 0.0, 'length_norm': False}


def test_the_teacher_as_a_reward_is_minillm_without_what_comes_later():
  """The gradient is that of -mean A log q, A = log p - log q of the sampled token and fixed."""
  with jax.enable_x64(True):
    s, t, batch = example()
    method = minillm(**OPD)

    def value(x):
      (total, count), _ = method.loss({}, {}, {LOGITS: x}, t, batch, step=0, rng=SEED)
      return total / count

    def written(x):
      values = []
      for (_, tokens), (_, still) in zip(
        responses({LOGITS: x}, t, batch), responses(s, t, batch), strict=True
      ):
        for (q, p, y), (old, _, _) in zip(tokens, still, strict=True):
          values.append(-(np.log(p[y]) - np.log(old[y])) * np.log(q[y]))
      return np.mean(values)

    along, slope = directional(written, s[LOGITS])
    np.testing.assert_allclose(np.sum(jax.grad(value)(s[LOGITS]) * along), slope, rtol=1e-6)


def test_it_is_on_average_the_gradient_of_the_reverse_kl_of_a_step():
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(2, 1, 1, 5))
    method = minillm(**OPD, mask=None)

    def surrogate(x):
      each = [
        method.loss({}, {}, {LOGITS: x}, {LOGITS: y}, {'text/target': np.array([[i]])}, step=0, rng=SEED)[0][
          0
        ]
        for i in range(5)
      ]
      return jnp.sum(softmax(z[0, 0]) * jnp.stack(each))

    def reverse(x):
      log_q, log_p = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
      return jnp.sum(jnp.exp(log_q) * (log_q - log_p))

    np.testing.assert_allclose(jax.grad(surrogate)(z), jax.grad(reverse)(z), rtol=1e-9, atol=1e-12)


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
  rows = read_logs(experiment.folder('student'))
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


TEACHER = {'teacher': 'likelihood', 'student': 'logits'}
CROSS = {
  'cross': True,
  **{'hidden': 'tokens', 'teacher_hidden': 'tokens', 'head': 'head', 'teacher_head': 'head'},
  **{'words': 'words', 'teacher_words': 'words'},
}


@pytest.fixture(scope='module')
def other_teacher(tmp_path_factory):
  """(weights, tokenizer.json) of a teacher that reads characters."""
  folder = tmp_path_factory.mktemp('other')
  byte_level(257).save(str(folder / 'tokenizer.json'))
  config = tiny_recipe('smoke=1', 80)
  config.data.update(tokenizer=str(folder / 'tokenizer.json'), text_length=80, prompt_length=40)
  stages.run(Experiment(config.to_dict(), folder / 'w'), ('teacher',))
  return folder / 'w' / 'teacher' / 'seed_0.safetensors', folder / 'tokenizer.json'


def with_other_teacher(name, other_teacher, **options):
  weights, words = other_teacher
  config = tiny_recipe(f'smoke=1,method={name}', 80)
  config.data.update(teacher_tokenizer=str(words), text_length=80, prompt_length=40)
  config.teacher.init, config.teacher.inputs = str(weights), {'text': 'text/teacher'}
  config.methods = {name: {'weight': 1.0, **options}}
  return config


@pytest.mark.whole
@pytest.mark.parametrize(
  'name, options',
  [
    ('alm', TEACHER),
    ('alm', {'student': 'logits', 'teacher': 'logits'}),
    ('uld', {**HERE, 'teacher_mask': 'text/teacher/target'}),
    ('dskd', {**HERE, **CROSS}),
  ],
)
def test_a_teacher_with_a_tokenizer_of_its_own(name, options, other_teacher, tmp_path):
  config = with_other_teacher(name, other_teacher, **options)
  experiment, _ = logged(config, tmp_path, name)
  stages.run(experiment)
  assert stages.evaluate(experiment, 'test').keys() == {'baseline', 'student'}


@pytest.mark.whole
def test_its_likelihoods_are_stored(other_teacher, tmp_path):
  config = with_other_teacher('alm', other_teacher, **TEACHER)
  live = logged(config, tmp_path / 'live', 'alm')[1]
  config.teacher.source, config.store.dtype = 'store', 'float32'
  np.testing.assert_allclose(logged(config, tmp_path / 'store', 'alm')[1], live, rtol=1e-5)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'teacher.inputs': {}}, "needs teacher.inputs={'text': 'text/teacher'}, and that is {}"),
    ({'on_policy.share': 0.5}, 'needs on_policy.share=0'),
    ({'teacher.init': ''}, 'needs a teacher that is trained already'),
  ],
)
def test_what_a_tokenizer_of_the_teacher_needs(changes, message, other_teacher, tmp_path):
  config = with_other_teacher('alm', other_teacher, **TEACHER)
  with config.unlocked():
    for key, value in changes.items():
      part, _, name = key.partition('.')
      config[part][name] = value
  with pytest.raises(KdjaxError) as caught:
    check(Experiment(config.to_dict(), tmp_path / 'w'))
  assert message in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.whole
def test_the_teacher_as_a_reward_trains(tmp_path):
  logged(tiny_recipe('smoke=1,method=opd'), tmp_path, 'opd')


def test_a_teacher_that_is_shown_the_response_reads_both():
  """Prompts of 1 and 3 tokens with their responses, and written ones of 2 and 1."""
  data = {
    'text': np.array([[5, 6, 7, 2, 0, 0], [5, 6, 7, 8, 2, 0]], np.int32),
    'text/mask': np.arange(6) < np.array([[4], [5]]),
    'text/response': np.array([[0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0]]) > 0,
    'id': np.arange(2),
  }
  new = data | {
    'text': np.array([[5, 9, 10, 0, 0, 0], [5, 6, 7, 11, 0, 0]], np.int32),
    'text/mask': np.arange(6) < np.array([[3], [4]]),
    'text/response': np.array([[0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]]) > 0,
  }
  new['text/target'] = tokenizer.targets(new['text'], new['text/response'])
  writer = on_policy.Writer(1.0, 3, 1.0, 'student', 2, 3, shown=(3, 4))
  seen, later = on_policy.in_sight(data, new, writer)
  assert seen['text'].tolist() == [
    [5, 6, 7, 2, 3, 4, 9, 10, 0, 0, 0],
    [5, 6, 7, 8, 2, 3, 4, 11, 0, 0, 0],
  ]
  assert later.tolist() == [5, 4] and seen['text/mask'].sum(1).tolist() == [8, 8]
  assert seen['text/response'].sum(1).tolist() == [2, 1]

  def echo(variables, batch, *, train=False, rng=None):
    return {'logits': batch['text/target'][..., None], 'embed': batch['text']}, {}

  t = on_policy.taught(Model(lambda rng, batch: {}, echo), {}, data, new, writer)
  valid = new['text/target'] >= 0
  assert (t['logits'][..., 0][valid] == new['text/target'][valid]).all() and t['logits'].shape == (2, 6, 1)
  plain = on_policy.taught(Model(lambda rng, batch: {}, echo), {}, data, new, writer._replace(shown=None))
  assert (plain['embed'] == new['text']).all()


@pytest.mark.whole
def test_self_distillation_with_the_response_shown(tmp_path):
  config = tiny_recipe('smoke=1,method=opsd', 60)
  stages.run(Experiment(config.to_dict(), tmp_path / 'before'), ('teacher',))
  config.student.model = dict(config.teacher.model)
  config.teacher.init = config.student.init = str(tmp_path / 'before' / 'teacher' / 'seed_0.safetensors')
  config.on_policy.transition = 'plus'
  _, losses = logged(config, tmp_path / 'w', 'opsd')
  assert losses[0] > 1e-6, 'one model with two contexts'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'share': 0.5}, 'set on_policy.share=1'),
    ({'writer': 'teacher'}, "on_policy.writer='student'"),
    ({'length': 7}, 'positions of the model'),
  ],
)
def test_what_showing_the_response_needs(changes, message, tmp_path):
  config = tiny_recipe('smoke=1,method=opsd', 14)
  config.on_policy.update(changes)
  with pytest.raises(KdjaxError) as caught:
    check(Experiment(config.to_dict(), tmp_path / 'w'))
  assert message in str(caught.value) and '\n' not in str(caught.value)
