"""Image-text retrieval: the loss, the ranks, the two towers; nothing depends on how a split is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_expit, logsumexp

from kdjax.errors import KdjaxError
from kdjax.experiment import build, predict, predict_files, stages
from kdjax.input import splits
from kdjax.models.multimodal.two_tower import TwoTower
from kdjax.models.text.hashed_words import HashedWords, buckets
from kdjax.models.vision.resnet import Resnet
from kdjax.nn import functional
from kdjax.recipes import model
from kdjax.tasks import retrieval as module
from kdjax.tasks.retrieval import retrieval
from kdjax.training import evaluate, sharding

METHODS = {'clip_fd', 'clip_kd', 'clip_icl', 'clip_crd', 'clip_gd', 'clip_afd', 'tinyclip', 'mobileclip'}


def embeddings(n=12, width=5, seed=0, groups=5):
  """Taps and group of n pairs; the images of one group are one."""
  rng = np.random.default_rng(seed)
  group = np.concatenate([np.arange(groups), rng.integers(0, groups, n - groups)]).astype(np.int32)
  image = rng.normal(size=(groups, width)).astype(np.float32)[group]
  text = (image + rng.normal(size=(n, width))).astype(np.float32)
  return {'image/embed': image, 'text/embed': text, 'logit_scale': np.float32(1.3)}, {'group': group}


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_hand(taps, group):
  """InfoNCE, an anchor at a time."""
  v, w = unit(taps['image/embed']), unit(taps['text/embed'])
  z = np.exp(taps['logit_scale']) * v @ w.T
  values = []
  for i in range(len(group)):
    others = [j for j in range(len(group)) if j == i or group[j] != group[i]]
    values += [logsumexp(row[others]) - row[i] for row in (z[i], z[:, i])]
  return np.mean(values)


def value(pair):
  return float(pair[0] / pair[1])


def test_info_nce_leaves_out_other_pairs_of_the_group():
  taps, batch = embeddings()
  assert value(retrieval().loss(taps, batch)) == pytest.approx(by_hand(taps, batch['group']), rel=1e-5)
  alone = {'group': np.arange(12, dtype=np.int32)}
  assert value(retrieval().loss(taps, {})) == pytest.approx(by_hand(taps, alone['group']), rel=1e-5)
  one = retrieval().loss(taps, {'group': np.zeros(12, np.int32)})
  assert value(one) == pytest.approx(0, abs=1e-6)  # nothing to tell apart


def test_an_example_is_no_wrong_one_of_itself():
  """A batch larger than the split has some examples twice; without groups their ids tell."""
  taps, batch = embeddings()
  assert value(retrieval().loss(taps, {'id': batch['group']})) == value(retrieval().loss(taps, batch))


def test_sigmoid_takes_all_of_the_group_for_positives():
  taps, batch = embeddings()
  taps |= {'logit_bias': np.float32(-2)}
  z = np.exp(1.3) * unit(taps['image/embed']) @ unit(taps['text/embed']).T - 2
  same = batch['group'][:, None] == batch['group']
  expected = -log_expit(np.where(same, z, -z)).sum() / 12
  assert value(retrieval(loss='sigmoid').loss(taps, batch)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('loss', ['softmax', 'sigmoid'])
def test_padding_and_prompts_take_no_part(loss):
  taps, batch = embeddings()
  taps |= {'logit_bias': np.float32(-2)}
  task = retrieval(loss=loss)
  wide = {k: np.concatenate([v, 9 * v[:3]]) if v.ndim else v for k, v in taps.items()}
  mask = np.array([1] * 12 + [0] * 3, np.float32)
  padded = {'group': np.concatenate([batch['group'], batch['group'][:3]]), 'mask': mask}
  prompts = {'group': np.concatenate([batch['group'], [-1, -1, -2]]).astype(np.int32)}
  expected = value(task.loss(taps, batch))
  assert value(task.loss(wide, padded)) == pytest.approx(expected, rel=1e-5)
  assert value(task.loss(wide, prompts)) == pytest.approx(expected, rel=1e-5)
  grad = jax.grad(lambda x: task.loss(wide | {'text/embed': x}, padded)[0])(wide['text/embed'])
  assert np.isfinite(grad).all() and not grad[12:].any() and grad[:12].any()
  nothing = task.loss(wide, {'group': padded['group'], 'mask': 0 * mask})
  assert nothing[0] == 0


def test_ranks_are_those_of_a_plain_search():
  taps, batch = embeddings(40, groups=9)
  result = module.pairs(taps | batch)
  images = unit(np.stack([taps['image/embed'][batch['group'] == g][0] for g in range(9)]))
  cosine = unit(taps['text/embed']) @ images.T
  to_image = [1 + sum(c > row[g] for c in row) for row, g in zip(cosine, batch['group'], strict=True)]
  to_text = []
  for g in range(9):
    order = np.argsort(-cosine[:, g])
    to_text.append(1 + min(np.flatnonzero(batch['group'][order] == g)))
  ranks = module.ranks(result)
  np.testing.assert_array_equal(ranks['text_to_image'], to_image)
  np.testing.assert_array_equal(ranks['image_to_text'], to_text)
  metrics = retrieval().finalize(taps | batch)
  assert metrics['text_to_image/r@5'] == pytest.approx(np.mean(np.array(to_image) <= 5))
  assert metrics['image_to_text/median_rank'] == np.median(to_text)
  six = [v for k, v in metrics.items() if '/r@' in k]
  assert len(six) == 6 and metrics['mean_recall'] == pytest.approx(np.mean(six))


def test_a_search_in_blocks_finds_the_same(monkeypatch):
  taps, batch = embeddings(40, groups=9)
  other, _ = embeddings(40, groups=9, seed=1)
  whole = retrieval().finalize(taps | batch), module.compare(taps | batch, other | batch)
  monkeypatch.setattr(module, 'BLOCK', 7)
  parts = retrieval().finalize(taps | batch), module.compare(taps | batch, other | batch)
  assert parts[0] == whole[0] and parts[1] == pytest.approx(whole[1])


def test_known_answers():
  taps, batch = embeddings()
  same = taps | batch | {'text/embed': taps['image/embed']}
  metrics = retrieval().finalize(same)
  assert metrics['mean_recall'] == 1 and metrics['text_to_image/median_rank'] == 1
  alike = {k: np.ones_like(v) for k, v in taps.items()} | batch
  assert retrieval().finalize(alike)['text_to_image/r@1'] == 0  # a collapse finds nothing
  assert module.compare(taps | batch, taps | batch) == pytest.approx({'agreement': 1, 'correlation': 1})


def test_chance_is_what_noise_gets():
  rng = np.random.default_rng(0)
  group = np.repeat(np.arange(30), 4)
  scores = []
  for _ in range(200):
    noise = {'image/embed': rng.normal(size=(30, 8))[group], 'text/embed': rng.normal(size=(120, 8))}
    scores.append(retrieval().finalize(noise | {'group': group})['mean_recall'])
  message = retrieval().references({}, {'group': group})['chance']
  assert message == pytest.approx(np.mean(scores), abs=4 * np.std(scores) / 200**0.5)


def test_prompts_and_languages():
  taps, batch = embeddings()
  label = np.array([0, 0, 1, 1, 1], np.int32)[batch['group']]
  taps = {k: v.copy() for k, v in taps.items() if v.ndim}
  prompts = np.stack([unit(taps['image/embed'][label == c]).mean(0) for c in (0, 1)])
  more = taps | {'text/embed': np.concatenate([taps['text/embed'], prompts])}
  more['image/embed'] = np.concatenate([taps['image/embed'], 0 * prompts])
  more |= {'group': np.concatenate([batch['group'], [-1, -2]]), 'label': np.concatenate([label, [0, 1]])}
  plain, result = retrieval().finalize(taps | batch), retrieval().finalize(more)
  assert {k: result[k] for k in plain} == plain
  first = [int(np.flatnonzero(batch['group'] == g)[0]) for g in range(5)]
  nearest = np.argmax(unit(taps['image/embed'][first]) @ unit(prompts).T, 1)
  assert result['zero_shot/accuracy'] == np.mean(nearest == label[first])


def test_each_language_is_searched_on_its_own():
  taps, batch = embeddings(20, groups=5)
  spoken = {'language': np.array([0, 1] * 10)}
  result = retrieval(languages=('en', 'de', 'fr')).finalize(taps | batch | spoken)
  alone = []
  for i in (0, 1):
    rows = spoken['language'] == i
    alone.append(retrieval().finalize({k: v[rows] for k, v in (taps | batch).items() if np.ndim(v)}))
  for key, value in alone[0].items():
    assert result[key] == pytest.approx((value + alone[1][key]) / 2), key
  assert result['de/mean_recall'] == alone[1]['mean_recall'] and 'fr/mean_recall' not in result
  chance = [retrieval().references({}, {'group': batch['group'][i::2]})['chance'] for i in (0, 1)]
  message = retrieval(languages=('en', 'de')).references({}, batch | spoken)
  assert message['chance'] == pytest.approx(np.mean(chance))


def test_cards_and_answer():
  taps, batch = embeddings()
  examples = [
    {'image': np.full((2, 2, 3), g, np.uint8), 'text': f'{i}'} for i, g in enumerate(batch['group'])
  ]
  cards = module.cards({'student': taps | batch}, examples, ())
  assert len(cards) == 11  # six texts, all five images
  card = cards[0]
  image = int(card['student'][0]['image'][0, 0, 0])
  assert [f['right'] for f in card['student']] == [
    int(f['image'][0, 0, 0]) == batch['group'][int(card['text'])] for f in card['student']
  ]
  result = module.pairs(taps | batch)
  assert image == np.argmax(result['text'][int(card['text'])] @ result['image'].T)
  assert all(f['image'] is None and f['text'] is not None for f in cards[-1]['student'])
  one = {k: v[0] for k, v in taps.items() if v.ndim}
  cosine = module.answer(one, ())[0][1]
  assert cosine == pytest.approx(float(unit(one['image/embed']) @ unit(one['text/embed'])))


def towers(**options):
  image, text = Resnet(widths=(4,), blocks=(0,), patch=4), HashedWords(buckets=16, width=4)
  return TwoTower(image, text, width=6, **options)


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 255, (10, 8, 8, 3), dtype=np.uint8),
    'text': rng.integers(2, 60, (10, 5), dtype=np.int32),
    'text/mask': rng.random((10, 5)) < 0.8,
    'group': np.arange(10, dtype=np.int32) // 2,
    'id': np.arange(10, dtype=np.int32),
  }


@pytest.fixture(scope='module')
def both(batch):
  """Outputs of a linear and of another two-tower model."""
  values = []
  for i, net in enumerate((towers(), towers(hidden=8, bias=True))):
    values.append(jax.jit(lambda key, net=net: net.init_with_output(key, batch)[0])(jax.random.key(i)))
  return values


def test_two_towers(both, batch):
  for taps in both:
    assert taps['image/embed'].shape == taps['text/embed'].shape == (10, 6)
    assert taps['logit_scale'].shape == () and 'image/stage1' in taps and 'text/tokens' in taps
    assert taps['text/tokens'].shape == (10, 5, 4)
  assert float(jnp.exp(both[0]['logit_scale'])) == pytest.approx(1 / 0.07)
  assert 'logit_bias' not in both[0] and float(both[1]['logit_bias']) == -10


def test_the_methods_of_two_towers_run_on_it(both, batch):
  student, teacher = both
  method = build.method({name: {} for name in METHODS} | {'siglip': {'released': False}}, 10)
  student = student | {'logit_bias': jnp.float32(-10)}

  def both_of_it(s, t):
    params, stats = method.init(jax.random.key(0), s, t, batch)
    return method.loss(params, stats, s, t, batch, step=0, rng=jax.random.key(0))[0]

  result = jax.eval_shape(both_of_it, student, teacher)
  assert result.keys() == METHODS | {'siglip'}


def test_hashed_words_do_not_depend_on_padding(batch):
  net = HashedWords(buckets=16, width=4)
  variables = net.init(jax.random.key(0), batch)
  wide = {k: np.pad(batch[k], ((0, 0), (0, 3))) for k in ('text', 'text/mask')}
  embed = net.apply(variables, batch)['embed']
  np.testing.assert_allclose(net.apply(variables, wide)['embed'], embed, rtol=1e-5, atol=1e-6)
  ids = jnp.arange(2000)
  rows = [np.asarray(buckets(ids, 16, i)) for i in range(4)]
  assert all(np.bincount(r, minlength=16).min() > 80 for r in rows)  # of 125
  assert abs(np.corrcoef(rows)[np.triu_indices(4, 1)]).max() < 0.1


def test_evaluation_does_not_depend_on_the_batch(batch):
  source = splits.InMemorySplit({k: np.concatenate([v, v[::-1]]) for k, v in batch.items()})
  model = functional.functions(towers(), {})
  variables = jax.tree.map(lambda x: x[None], model.init(jax.random.key(0), batch))
  each = []
  for size in (8, 20):
    judge = evaluate.make_evaluate(model, retrieval(), sharding.make_mesh(), size, gather=False)
    each.append(judge(variables, source))
  assert each[0].metrics.keys() == each[1].metrics.keys()
  for key, scores in each[0].metrics.items():
    np.testing.assert_allclose(scores, each[1].metrics[key], err_msg=key)
  assert len(each[0].gathered[0]['group']) == 20


def test_another_loss_is_an_error():
  with pytest.raises(KdjaxError, match='unknown loss of the task retrieval'):
    retrieval(loss='softmx')


def test_a_model_of_one_tower_is_not_for_it():
  assert retrieval().outputs(None) == {'image/embed': None, 'text/embed': None, 'logit_scale': None}
  assert 'logit_bias' in retrieval(loss='sigmoid').outputs(None)


@pytest.fixture
def search(config):
  """The made data as a search."""
  config.task = {'name': 'retrieval'}
  for stage, width in (('teacher', 8), ('student', 4)):
    image = model('resnet', widths=(width, 2 * width), blocks=(1, 1), patch=4)
    config[stage].model = model('two_tower', width=8, image=image, text=model('bag_of_words', width=width))
  config.methods = {'clip_icl': {}}
  return config


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (lambda c: c.data.update(labels=0.5), "the task 'retrieval' has none that it can do without"),
    (lambda c: c.teacher.train.update(accumulate=2), 'teacher'),
    (lambda c: c.task.update(languages=('en',)), 'task.languages is en, and those of the data are none'),
  ],
)
def test_what_a_search_cannot_be_asked(search, experiment, change, words):
  with search.unlocked():
    change(search)
  with pytest.raises(KdjaxError, match=words) as caught:
    stages.run(experiment())
  assert '\n' not in str(caught.value)


def test_a_search_is_no_search_a_device_at_a_time(search, experiment, eight_devices):
  search.run.parallel = 'pmap'
  with pytest.raises(KdjaxError, match="use parallel='jit'"):
    stages.run(experiment())


@pytest.mark.whole
def test_a_fit_needs_both_sides(search, experiment, manifest):
  exp = experiment()
  stages.run(exp, ('teacher', 'baseline', 'student'))
  predictor = predict.load(exp.workdir)
  image, words = [str(manifest.parent / '0.png')], ['what colour is it?', 'is it red?']
  answers = predictor.predict(predict_files.given(predictor, {'image': image, 'text': words}).columns)
  assert len(answers) == 2 and all(-1 <= a[0][1] <= 1 for a in answers)
  with pytest.raises(KdjaxError, match='compares image and text: every row needs its text'):
    predictor.predict(predict_files.given(predictor, {'image': image}).columns)
