"""Language models: prompts with responses, their loss, what a model writes, and training on that."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tokenizers import Tokenizer, models

from configs import instructions
from kdjax import recipes
from kdjax.datasets.manifest import manifest as read_manifest
from kdjax.datasets.number_words import in_words, number_words
from kdjax.errors import KdjaxError
from kdjax.evaluation import generation_metrics
from kdjax.experiment import build, predict, stages
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.validate import check
from kdjax.experiment.workdir import claim_workdir
from kdjax.input import tokenizer
from kdjax.methods.sequence.forward_kl import forward_kl
from kdjax.models.text.gpt2 import Gpt2
from kdjax.nn import functional, generate
from kdjax.recipes import model, training
from kdjax.runtime import signals
from kdjax.runtime.files import read_json, write_json
from kdjax.tasks.language_modelling import language_modelling
from kdjax.training import sharding
from kdjax.training.loss_weights import combine
from kdjax.training.metrics_log import read_log
from kdjax.training.schemes import on_policy
from kdjax.training.step import make_init, make_update
from kdjax.types import Model

L, P, V, END = 12, 6, 11, 2
FOLDERS = itertools.count()


def tiny(width=8, depth=1):
  result = functional.functions(Gpt2(V, width=width, depth=depth, heads=2, mlp=16, positions=L + 4), {})
  return Model(jax.jit(result.init), jax.jit(result.apply, static_argnames='train'))


@pytest.fixture(scope='module')
def talk():
  """(student, its variables, teacher, its variables, a batch of 6 prompts and responses)."""
  rng, rows = np.random.default_rng(0), 6
  start, stop = rng.integers(1, P + 1, rows), rng.integers(P + 1, L + 1, rows)
  column = np.arange(L)
  mask = column < stop[:, None]
  text = np.where(mask, rng.integers(3, V, (rows, L)), 0).astype(np.int32)
  response = mask & (column >= start[:, None])
  batch = {'text': text, 'text/mask': mask, 'text/response': response, 'id': np.arange(rows, dtype=np.int32)}
  batch['text/target'] = tokenizer.targets(text, response)
  collected = []
  for seed, net in enumerate((tiny(), tiny(12, 2))):
    variables = net.init(jax.random.key(seed), batch)
    collected += [net, jax.tree.map(lambda x: 3 * x, variables)]  # else all is as likely
  return *collected, batch


def test_a_prompt_and_its_response_are_one_text():
  words = tokenizer.cut(tokenizer.train(['a b c d e f'], 20, end=True), 6)
  ids = {w: words.token_to_id(w) for w in 'abcdef'}
  a, b, c, d, e, f = (ids[w] for w in 'abcdef')
  assert tokenizer.end(words) == END and words.token_to_id(tokenizer.PAD) == 0
  prompts, responses = ['a b', 'a b c d', 'a b', 'A'], ['c', 'e f', 'a b c d e f', '']
  result = tokenizer.encode_pairs(words, prompts, responses, 3)
  assert result[''].tolist() == [
    [a, b, c, END, 0, 0],
    [b, c, d, e, f, END],  # the end of the prompt is what is kept
    [a, b, a, b, c, d],  # cut: no end
    [a, END, 0, 0, 0, 0],
  ]
  assert result['/mask'].sum(1).tolist() == [4, 6, 6, 2]
  assert result['/response'].astype(int).tolist()[:2] == [[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]
  no = tokenizer.NOTHING
  assert result['/target'][0].tolist() == [no, c, END, no, no, no]
  assert result['/target'][1].tolist() == [no, no, e, f, END, no]
  assert result['/cut'].tolist() == [False, True, True, False]
  assert tokenizer.encode_pairs(words, ['a b c d'], ['e'])[''][0].tolist() == [b, c, d, e, END, 0]  # half
  with pytest.raises(KdjaxError, match="the prompt ' ' has no token"):
    tokenizer.encode_pairs(words, [' '], ['a'])
  with pytest.raises(KdjaxError, match='prompt_length is 6 and data.text_length 6'):
    tokenizer.longest(words, 6)
  with pytest.raises(KdjaxError, match='has no token that ends a text'):
    tokenizer.end(tokenizer.train(['a b'], 9))


def test_a_vocabulary_without_an_end_is_as_it_was():
  assert tokenizer.train(['a b'], 9).get_vocab() == {'[PAD]': 0, '[UNK]': 1, 'a': 2, 'b': 3}


def test_ids_are_spelt_as_their_vocabulary_is():
  assert (
    tokenizer.spell([0, 3, 1, 2, 4, -1], ('[PAD]', 'two', '[END]', 'twenty', '[UNK]')) == 'twenty two [UNK]'
  )
  assert tokenizer.spell([0, 1, 2, 3], ('A', 'Ġcat', '.', '<|endoftext|>')) == 'A cat.'
  assert tokenizer.spell([0, 1, 2], ('▁a', '▁c', 'at')) == 'a cat'
  gpt2 = Tokenizer(models.WordLevel({'!': 0, '<|endoftext|>': 1}, unk_token='!'))
  assert tokenizer.end(gpt2) == 1 and tokenizer.vocabulary(gpt2) == ('!', '<|endoftext|>')


def test_a_table_of_responses(tmp_path):
  path = tmp_path / 'r.jsonl'
  rows = [{'text': f'say {i % 40}', 'response': f'number {i}'} for i in range(200)]
  path.write_text('\n'.join(map(json.dumps, rows)))
  dataset = read_manifest(path=str(path))
  assert dataset.classes == () and dataset.splits['train'][0].keys() == {'id', 'text', 'response'}
  requests = {k: {s[i]['text'] for i in range(len(s))} for k, s in dataset.splits.items()}
  assert not requests['train'] & requests['test'], 'a prompt is in one split'
  path.write_text('\n'.join(json.dumps(row | {'label': 'x', 'split': 'train'}) for row in rows))
  assert 'response' not in read_manifest(path=str(path)).splits['train'][0], 'a table of labels is as it was'
  named = read_manifest(path=str(path), columns={'response': 'response'}).splits['train'][0]
  assert named == {'id': 1, 'text': 'say 0', 'response': 'number 0'}
  path.write_text(json.dumps({'text': 'a', 'response': '', 'split': 'train'}))
  with pytest.raises(KdjaxError, match="the column 'response' is empty"):
    read_manifest(path=str(path)).splits['train'][0]


def test_numbers_in_words():
  assert [in_words(n) for n in (0, 13, 20, 47, 100, 905)] == [
    'zero', 'thirteen', 'twenty', 'forty seven', 'one hundred', 'nine hundred five'
  ]  # fmt: skip
  dataset = number_words(train=300, validation=50, test=100, most=20)
  of = {in_words(n): n for n in range(100)}
  requests = {}
  for split, examples in dataset.splits.items():
    for example in (examples[i] for i in range(len(examples))):
      a, sign, b = next(example['text'].partition(s) for s in (' plus ', ' minus ') if s in example['text'])
      b = of[b.removesuffix(' =')]
      assert of[example['response']] == of[a] + (b if sign == ' plus ' else -b)
      assert requests.setdefault(example['text'], split) == split, 'a question is in two splits'
  assert len(requests) == 450
  sizes = {'train': 300, 'validation': 50, 'test': 100, 'most': 20}
  assert dataset.fingerprint == number_words(**sizes).fingerprint != number_words(**sizes, seed=1).fingerprint
  with pytest.raises(KdjaxError, match='there are 7 in all'):
    number_words(most=1, train=10)


def numpy_loss(logits, batch):
  """(sum, count) of -log p of every token of a response, and how many are the likeliest, in loops."""
  total, right, count = 0.0, 0, 0
  for i, j in np.argwhere(batch['text/response']):
    z = logits[i, j - 1].astype(np.float64)
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    total -= np.log(p[batch['text'][i, j]])
    right += z.argmax() == batch['text'][i, j]
    count += 1
  return total, right, count


@pytest.mark.whole
def test_a_second_writing_of_the_loss(talk):
  student, variables, _, _, batch = talk
  task = language_modelling()
  outputs = jax.device_get(student.apply(variables, batch)[0])
  total, right, count = numpy_loss(outputs['logits'], batch)
  np.testing.assert_allclose(jax.jit(task.loss)(outputs, batch), (total, count), rtol=1e-5)
  metrics = jax.jit(task.metrics)(outputs, batch)
  np.testing.assert_allclose(metrics['loss'], (total, count), rtol=1e-5)
  assert tuple(map(int, metrics['accuracy'])) == (right, count) and 0 < count < batch['text'].size
  gathered = {k: (outputs | batch)[k] for k in task.gather}
  assert task.finalize(gathered)['perplexity'] == pytest.approx(np.exp(total / count), rel=1e-5)
  assert all(v.ndim == 2 for v in gathered.values()), 'nothing as large as a vocabulary is gathered'
  same = task.compare(gathered, gathered)
  assert same == {'agreement': 1.0, 'nats_behind_teacher': 0.0}
  (reference,) = task.references(batch, batch).values()
  counts = np.bincount(batch['text'][batch['text/response']], minlength=V) + 1.0
  wanted = -np.mean([np.log(counts[t] / counts.sum()) for t in batch['text'][batch['text/response']]])
  assert reference == pytest.approx(wanted)
  with pytest.raises(KdjaxError, match="needs examples with a 'text' and a 'response'"):
    task.loss(outputs, {'text': batch['text']})


def test_the_loss_is_the_same_however_a_batch_is_split_and_padded(talk):
  student, variables, _, _, batch = talk
  task = language_modelling()

  def loss(b):
    return np.array(jax.jit(task.loss)(student.apply(variables, b)[0], b))

  whole = loss(batch)
  parts = [
    loss({k: v[rows] for k, v in batch.items()}) for rows in (slice(0, 1), slice(1, 4), slice(4, None))
  ]
  np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)
  wide = {k: np.pad(v, ((0, 0), (0, 4)), constant_values=END) if v.ndim > 1 else v for k, v in batch.items()}
  wide['text/mask'] = np.pad(batch['text/mask'], ((0, 0), (0, 4)))
  wide['text/target'] = np.pad(batch['text/target'], ((0, 0), (0, 4)), constant_values=-100)
  np.testing.assert_allclose(loss(wide), whole, rtol=1e-5)
  more = {k: np.concatenate([v, v[:2]]) for k, v in batch.items()} | {'mask': np.float32([1] * 6 + [0] * 2)}
  np.testing.assert_allclose(loss(more), whole, rtol=1e-5)


def by_hand(student, variables, prompt, n):
  """The likeliest n tokens after a prompt, a plain forward of the whole text for each."""
  text = list(prompt)
  for _ in range(n):
    row = np.array([text + [0] * (L - len(text))], np.int32)
    logits = student.apply(variables, {'text': row, 'text/mask': np.arange(L)[None] < len(text)})[0]['logits']
    text.append(int(np.argmax(logits[0, len(text) - 1])))
    if text[-1] == END:
      break
  return text[len(prompt) :]


@pytest.mark.whole
def test_a_cache_gives_what_the_whole_text_gives(talk):
  for student, variables in (talk[:2], talk[2:4]):
    batch = talk[4]
    begun = generate.prompts(batch, P)
    write = jax.jit(generate.make_generate(student.apply, END, L - P, temperature=0))
    result = jax.device_get(write(variables, begun, jax.random.key(0)))
    for row in range(2):
      prompt = batch['text'][row][: begun['text/mask'][row].sum()]
      assert result.ids[row][result.mask[row]].tolist() == by_hand(student, variables, prompt, L - P)
    new = jax.device_get(generate.answered(batch, P, result))
    likelihood = np.asarray(student.apply(variables, new)[0]['likelihood'])
    message = new['text/target'] >= 0
    assert (message.sum(1) == result.mask.sum(1)).all()
    np.testing.assert_allclose(likelihood[message], result.log_q[result.mask], atol=1e-5)


def test_what_was_written_takes_the_place_of_the_responses(talk):
  batch = talk[4]
  ids = np.arange(6 * 4, dtype=np.int32).reshape(6, 4)
  mask = np.arange(4) < np.array([4, 1, 2, 3, 4, 1])[:, None]
  message = generate.Written(jnp.asarray(ids), jnp.asarray(mask), None)
  new = jax.device_get(jax.jit(lambda b, w: generate.answered(b, P, w))(batch, message))
  for row in range(6):
    begun = (batch['text/mask'] & ~batch['text/response'])[row].sum()
    wanted = [*batch['text'][row][:begun], *ids[row][mask[row]]]
    assert new['text'][row].tolist() == wanted + [0] * (L - len(wanted))
    assert new['text/mask'][row].sum() == len(wanted)
    assert np.flatnonzero(new['text/response'][row]).tolist() == list(range(begun, len(wanted)))
    assert new['text/target'][row][begun - 1 : len(wanted) - 1].tolist() == ids[row][mask[row]].tolist()
  assert (new['text/target'] >= 0).sum() == mask.sum() and (new['id'] == batch['id']).all()


@pytest.mark.whole
def test_samples_do_not_depend_on_the_batch(talk):
  student, variables, _, _, batch = talk
  write = jax.jit(generate.make_generate(student.apply, END, 5))
  begun, rng = generate.prompts(batch, P), jax.random.key(3)
  whole = jax.device_get(write(variables, begun, rng))
  order = np.array([4, 1, 5])
  some = jax.device_get(write(variables, {k: v[order] for k, v in begun.items()}, rng))
  kept = whole.mask[order]
  assert (some.mask == kept).all() and (some.ids[kept] == whole.ids[order][kept]).all()
  other = jax.device_get(write(variables, begun, jax.random.key(4)))
  assert (other.ids != whole.ids).any()
  nothing = write(variables, begun, rng, jnp.asarray(False))
  assert not nothing.mask.any()


def test_samples_are_of_the_distribution_and_end(talk):
  student, variables, _, _, batch = talk
  n, temperature = 3000, 1.5
  begun = {k: np.repeat(v[:1], n, 0) for k, v in generate.prompts(batch, P).items()}
  begun['id'] = np.arange(n)
  write = jax.jit(generate.make_generate(student.apply, END, 3, temperature))
  result = jax.device_get(write(variables, begun, jax.random.key(0)))
  last = begun['text/mask'][0].sum() - 1
  z = np.asarray(student.apply(variables, batch)[0]['logits'], np.float64)[0, last] / temperature
  p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
  share = np.bincount(result.ids[:, 0], minlength=V) / n
  assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / n) + 1e-9).all()
  for ids, mask in zip(result.ids[:200], result.mask[:200], strict=True):
    first = np.flatnonzero(ids == END)
    assert mask.sum() == (first[0] + 1 if len(first) else 3)


@pytest.mark.whole
def test_a_model_that_cannot_go_on_is_refused():
  plain = functional.functions(
    build.module(model('transformer', vocab_size=V, width=8, depth=1, heads=2), {}), {}
  )
  batch = {'text': np.ones((2, P), np.int32), 'text/mask': np.ones((2, P), bool), 'id': np.arange(2)}
  variables = plain.init(jax.random.key(0), batch)
  with pytest.raises(KdjaxError, match='the model cannot go on with a text'):
    generate.make_generate(plain.apply, END, 2)(variables, batch, jax.random.key(0))
  with pytest.raises(KdjaxError, match='a text of 26 tokens is longer than the 16 positions'):
    generate.make_generate(tiny().apply, END, 20)(
      tiny().init(jax.random.key(0), batch), batch, jax.random.key(0)
    )


METHOD = forward_kl(mask='text/target', student='logits', teacher='logits')


def trained(talk, share, who='student', task_weight=0.0):
  """(update, first state) of the on-policy training of the tiny student."""
  student, variables, teacher, taught, batch = talk
  method, tx = combine({'fkl': (1.0, METHOD, lambda step: 1.0)}), optax.sgd(0.1)
  writer = on_policy.Writer(share, L - P, 1.0, who, END, P)
  init = on_policy.make_init(make_init(student, method, tx), teacher)
  task = on_policy.of_labels(language_modelling())
  plain = make_update(student, task, method, tx, task_weight=task_weight)
  update = jax.jit(on_policy.make_update(plain, student, teacher, writer))
  state = jax.jit(init)(5, taught, batch)
  return update, state.replace(params=state.params | {'student': variables['params']})


@pytest.mark.whole
@pytest.mark.parametrize('who', on_policy.WHO)
def test_a_step_on_what_was_written(talk, who):
  student, variables, teacher, taught, batch = talk
  update, state = trained(talk, 1.0, who, task_weight=1.0)
  new, losses = update(state, taught, batch)
  writer = on_policy.Writer(1.0, L - P, 1.0, who, END, P)
  rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 0), on_policy.DRAWN)
  author, weights = (student, variables) if who == 'student' else (teacher, taught)
  seen = jax.jit(on_policy.make_rewrite(author, writer))(weights, batch, rng)
  assert seen[on_policy.OWN].all() and (seen['text'] != batch['text']).any()
  assert (seen[on_policy.BY_STUDENT] == (who == 'student')).all()

  def loss(params):  # the samples are given: no gradient goes through the drawing of them
    s, t = student.apply({'params': params}, seen)[0], teacher.apply(taught, seen)[0]
    total, count = METHOD.loss({}, {}, s, t, seen, step=0, rng=None)[0]
    return total / count

  value, grads = jax.jit(jax.value_and_grad(loss))(variables['params'])
  np.testing.assert_allclose(losses['fkl'][0] / losses['fkl'][1], value, rtol=1e-5)
  assert losses['task'][1] == 0, 'what is written is no label'
  for a, b, g in zip(*map(jax.tree.leaves, (new.params['student'], variables['params'], grads)), strict=True):
    np.testing.assert_allclose(a, b - 0.1 * g, atol=2e-6)
  other, _ = update(new, taught, batch)
  assert int(other.step) == 2


@pytest.mark.whole
def test_the_share_of_batches(talk):
  student, variables, _, _, batch = talk
  rewrite = jax.jit(on_policy.make_rewrite(student, on_policy.Writer(0.5, 2, 1.0, 'student', END, P)))
  seen = [rewrite(variables, batch, jax.random.key(i)) for i in range(40)]
  own = [bool(s[on_policy.OWN].all()) for s in seen]
  assert 10 < sum(own) < 30 and own == [bool(s[on_policy.OWN].any()) for s in seen]
  for same, s in zip(own, seen, strict=True):
    assert same == bool((s['text'] != batch['text']).any())
  update, state = trained(talk, 1e-9, task_weight=1.0)
  _, losses = update(state, talk[3], batch)
  assert losses['task'][1] == (batch['text/target'] >= 0).sum() == losses['fkl'][1]


@pytest.mark.whole
def test_devices_share_a_batch(talk, eight_devices):
  student, variables, teacher, taught, batch = talk
  batch = {k: np.concatenate([v, v[:2]]) for k, v in batch.items()} | {'id': np.arange(8, dtype=np.int32)}
  update, state = trained((student, variables, teacher, taught, batch), 1.0)
  mesh = sharding.make_mesh()
  whole = jax.device_put(jax.tree.map(np.asarray, (state, taught)), sharding.replicated(mesh))
  one, many = update(state, taught, batch)[0], update(*whole, sharding.to_global_arrays(batch, mesh))[0]
  for a, b in zip(*(jax.tree.leaves(s.params) for s in (one, many)), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_rouge_l():
  pytest.importorskip('rouge_score')
  assert generation_metrics.rouge_l(['twenty seven'], ['twenty seven']) == 1
  two = generation_metrics.rouge_l(['a cat sat', 'dogs run'], ['the cat sat down', 'birds fly'])
  assert two == pytest.approx((2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)) / 2)


@pytest.fixture
def config():
  """The recipe with models of no size."""
  recipe_ = instructions.get_config('smoke=1')
  for stage, width in (('teacher', 16), ('student', 8)):
    recipe_[stage].model = model('gpt2', width=width, depth=1, heads=2, mlp=16, positions=14)
    recipe_[stage].train = training(4, 16, 1e-2)
  recipe_.seeds = 1
  return recipe_


def made(config, tmp_path, name='w'):
  return Experiment(config.to_dict(), tmp_path / name)


@pytest.mark.whole
def test_the_recipe_from_end_to_end(config, tmp_path):
  pytest.importorskip('rouge_score')
  config.seeds = 2
  config.generation.update(seeds=(10, 20), examples=8)
  config.on_policy.share = 0.5
  results = stages.run(made(config, tmp_path))
  student = results['stages']['student']
  assert results['metric'] == 'loss' and not results['higher_is_better'] and len(student['values']) == 2
  names = {'accuracy', 'perplexity', 'rouge_l', 'exact_match', 'rouge_l (seed 10)', 'rouge_l (seed 20)'}
  for stage in ('teacher', 'baseline', 'student'):
    own = results['stages'][stage]['others']
    assert names <= own.keys()
    both = np.mean([own['rouge_l (seed 10)'], own['rouge_l (seed 20)']], 0)
    np.testing.assert_allclose(own['rouge_l'], both)
    assert 0 < results['stages'][stage]['rouge_l'] < 1
  assert '| rouge_l |' in (tmp_path / 'w' / 'report.md').read_text()
  page = (tmp_path / 'w' / 'report.html').read_text()
  assert ' plus ' in page or ' minus ' in page
  predictor = predict.load(tmp_path / 'w')
  answers = predictor.predict({'text': ['two plus two =', 'nine minus one =']})
  assert predictor.inputs == ('text',)
  assert all(isinstance(text, str) and 0 < p <= 1 for ((text, p),) in answers)
  before = json.loads((tmp_path / 'w' / 'config.json').read_text())
  before['on_policy'] |= {'share': 0.0}
  write_json(tmp_path / 'w' / 'config.json', before)
  with pytest.raises(KdjaxError, match='on_policy.share: 0.0 there, 0.5 here'):
    claim_workdir(made(config, tmp_path))


@pytest.mark.whole
def test_on_policy_training_goes_on_as_if_it_had_not_stopped(config, tmp_path):
  config.on_policy.update(share=0.7)
  stages.run(whole := made(config, tmp_path, 'whole'), ('teacher', 'student'))
  assert 'loss/forward_kl' in set().union(*read_log(whole.folder('student') / 'metrics.jsonl'))
  config.teacher.init = str(whole.folder('teacher') / 'seed_0.safetensors')
  stages.run(halved := made(config, tmp_path, 'halved'), ('teacher',))
  stops = iter([False, False, True, True, True])
  with pytest.raises(signals.Interrupted):
    stages.train_stage(halved, 'student', stopped=lambda: next(stops))
  stages.train_stage(halved, 'student')
  jax.tree.map(np.testing.assert_array_equal, whole.variables('student'), halved.variables('student'))


def test_a_workdir_of_before_these_keys_is_still_its_own(config, tmp_path):
  one = made(config, tmp_path)
  claim_workdir(one)
  path = one.workdir / 'config.json'
  old = read_json(path, dict, '')
  del old['on_policy'], old['generation'], old['data']['columns']['response']
  write_json(path, old)
  config.generation.seeds = (1,)
  claim_workdir(made(config, tmp_path))
  config.data.prompt_length = 5
  with pytest.raises(KdjaxError, match='data.prompt_length'):
    claim_workdir(made(config, tmp_path))


@pytest.mark.parametrize(
  ('changes', 'parts'),
  [
    ({'on_policy.share': 2.0}, ['on_policy.share is 2.0', 'from 0 to 1']),
    ({'on_policy.writer': 'parrot'}, ["on_policy.writer: 'parrot'", 'student', 'teacher']),
    ({'on_policy.length': 9}, ['on_policy.length is 9', 'prompts of up to 7 tokens leave 7']),
    ({'teacher.source': 'store'}, ["needs teacher.source='live'", "'store'"]),
    ({'run.parallel': 'pmap'}, ["needs run.parallel='jit'"]),
    ({'student.train.augment': ('drop_words',)}, ['needs student.train.augment=[]']),
    ({'student.model.positions': 13}, ['a text of 14 tokens is longer than the 13 positions']),
    ({'generation.seeds': (1,), 'generation.length': 20}, ['a text of 27 tokens']),
    ({'data.prompt_length': 14}, ['data.prompt_length is 14 and data.text_length 14']),
  ],
)
def test_what_cannot_be_run_is_one_line(config, tmp_path, changes, parts):
  config.on_policy.share = 0.5
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  with pytest.raises(KdjaxError) as caught:
    check(made(config, tmp_path))
  assert '\n' not in str(caught.value)
  for part in parts:
    assert part in str(caught.value)


def test_responses_need_their_own_task(config, tmp_path, manifest):
  plain = recipes.base('plain')
  plain.data.update(name='manifest', path=str(manifest), text_length=8)
  plain.on_policy.share = 0.5
  with pytest.raises(KdjaxError, match="needs task.name='language_modelling', and that is 'classification'"):
    on_policy.writer(plain.to_dict(), None)
