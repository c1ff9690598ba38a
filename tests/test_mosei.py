"""Multimodal sentiment: made files of the very layouts, metrics and MulT written twice, a whole run."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mosei as recipe
from kdjax.datasets.mosei import mosei
from kdjax.errors import KdjaxError
from kdjax.experiment import stages
from kdjax.experiment.experiment import Experiment
from kdjax.input import pipeline
from kdjax.models.multimodal.feature_encoder import FeatureEncoder
from kdjax.models.multimodal.mult import Mult, positions
from kdjax.tasks.sentiment import name, sentiment

SIZES = {'train': 96, 'valid': 32, 'test': 48}
DIMS = {'text': 8, 'audio': 5, 'vision': 6}


def padded(rng, labels, lengths, length, width, front=False):
  """[N, L, D] features that tell the label, zeros where nothing is."""
  x = rng.normal(size=(len(labels), length, width)) + np.asarray(labels)[:, None, None] / 2
  where = np.arange(length) < np.asarray(lengths)[:, None]
  return np.where((where[:, ::-1] if front else where)[..., None], x, 0)


def part(rng, n, aligned):
  """A split as MMSA has it."""
  labels = rng.integers(-9, 10, n) / 3
  words = rng.integers(2, 8, n)
  length = {'audio': 7 if aligned else 11, 'vision': 7 if aligned else 9}
  lengths = {k: words if aligned else rng.integers(2, m + 1, n) for k, m in length.items()}
  attended = (np.arange(7) < words[:, None]).astype(np.float32)
  values = {
    'raw_text': np.array([f'utterance {i}' for i in range(n)])
    if aligned
    else [f'it is {v:.0f}' for v in labels],
    'text': padded(rng, labels, words, 7, DIMS['text']).astype(np.float32),
    'text_bert': np.stack([attended * 101, attended, 0 * attended], 1),
    'id': [f'v{i}$_$0' for i in range(n)],
    'annotations': ['Positive' if v > 0 else 'Negative' if v < 0 else 'Neutral' for v in labels],
    'classification_labels': np.sign(labels) + 1,
    'regression_labels': labels.astype(np.float32),
  }
  for key, m in length.items():
    values[key] = padded(rng, labels, lengths[key], m, DIMS[key]).astype(np.float32)
    if not aligned:
      values[f'{key}_lengths'] = lengths[key].tolist() if key == 'audio' else lengths[key]
  return values


def unaligned(seed=0):
  rng = np.random.default_rng(seed)
  return {s: part(rng, n, False) for s, n in SIZES.items()}


def aligned(seed=0):
  rng = np.random.default_rng(seed)
  return {s: part(rng, n, True) for s, n in SIZES.items()}


def multibench(seed=0):
  """Padded in front, labels [N, 1, 1], and no transcripts."""
  rng = np.random.default_rng(seed)
  values = {}
  for split, n in SIZES.items():
    labels, words = rng.integers(-9, 10, n) / 3, rng.integers(2, 8, n)
    values[split] = {k: padded(rng, labels, words, 7, d, front=True) for k, d in DIMS.items()}
    values[split] |= {'labels': labels[:, None, None], 'id': np.array([[b'v', b'0', b'1']] * n)}
  return values


@pytest.fixture
def file(tmp_path):
  def write(data, protocol=4):
    path = tmp_path / 'features.pkl'
    path.write_bytes(pickle.dumps(data, protocol))
    return str(path)

  return write


@pytest.mark.parametrize('layout', [unaligned, aligned, multibench])
@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_every_layout_is_read(file, layout, protocol):
  data = layout()
  result = mosei(path=file(data, protocol), standardise=False)
  assert {k: len(v) for k, v in result.splits.items()} == {'train': 96, 'validation': 32, 'test': 48}
  assert result.classes == ()
  for split, theirs in (('train', 'train'), ('validation', 'valid'), ('test', 'test')):
    raw = data[theirs]
    labels = raw.get('regression_labels', raw.get('labels')).reshape(-1)
    for i in (0, 7, 31):
      example = result.splits[split][i]
      assert example['label'].dtype == np.float32 and example['label'] == pytest.approx(labels[i])
      assert example['id'] == i and ('text' in example) == ('raw_text' in raw)
      for ours, key in (('words', 'text'), ('audio', 'audio'), ('video', 'vision')):
        x, mask = example[ours], example[f'{ours}/mask']
        assert x.dtype == np.float32 and mask.dtype == bool
        np.testing.assert_array_equal(x, raw[key][i].astype(np.float32))
        np.testing.assert_array_equal(mask, (raw[key][i] != 0).any(-1))
        assert example[f'{ours}/present'] == 1


def test_lengths_count_and_not_zeros(file):
  """A zero vector within the length is valid; one in BERT's mask too, and what is past the length is not."""
  data = unaligned()
  data['train']['audio'][0], data['train']['audio_lengths'][0] = 0, 4
  data['train']['vision'][1], data['train']['vision_lengths'][1] = 1, 3
  data['train']['vision_lengths'][2], data['train']['text_bert'][2, 1] = 0, 0
  train = mosei(path=file(data)).splits['train']
  assert train[0]['audio/mask'].sum() == 4
  assert train[1]['video/mask'].sum() == 3 and not train[1]['video'][3:].any()
  assert train[2]['video/present'] == 0 and train[2]['words/present'] == 0
  assert mosei(path=file(unaligned())).splits['train'][0]['words/mask'].sum() >= 2


def test_a_modality_of_zeros_is_absent(file):
  data = aligned()
  data['test']['vision'][3] = 0
  example = mosei(path=file(data)).splits['test'][3]
  assert example['video/present'] == 0 and not example['video'].any() and example['audio/present'] == 1


def test_what_is_no_number_is_zero_and_counted(file, capsys):
  data = unaligned()
  data['train']['audio'][:3, 0, 0] = -np.inf
  data['test']['audio'][0, 0, 1] = np.nan
  data['test']['vision'][0, 0, 1] = np.inf
  result = mosei(path=file(data), standardise=False)
  message = capsys.readouterr().out
  assert message.count('read as 0') == 1 and '4 of audio, 1 of video' in message
  for split in result.splits.values():
    assert all(np.isfinite(example[k]).all() for example in split for k in ('words', 'audio', 'video'))
  assert result.splits['train'][0]['audio'][0, 0] == 0


def test_features_are_standardised_by_the_training_split(file):
  data = unaligned()
  for s in data.values():
    s['audio'][..., 1] = s['audio'][..., 1] * 1000 + 40
    s['audio'][..., 2] = 7.0
  result = mosei(path=file(data))
  train = np.concatenate([e['audio'][e['audio/mask']] for e in result.splits['train']])
  np.testing.assert_allclose(train.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(np.delete(train.std(0), 2), 1, rtol=1e-3)
  assert not train[:, 2].any()
  test = np.concatenate([e['audio'][e['audio/mask']] for e in result.splits['test']])
  assert 1e-4 < np.abs(test.mean(0)).max() < 1


def test_labels(file, capsys):
  data = unaligned()
  data['train']['regression_labels'][:3] = [5, np.nan, -3]
  train = mosei(path=file(data)).splits['train']
  assert train[0]['label'] == 3 and np.isnan(train[1]['label']) and train[2]['label'] == -3
  assert '1 labels of train lie outside' in capsys.readouterr().out
  data['test']['regression_labels'] = data['test']['regression_labels'].tolist()
  assert mosei(path=file(data)).splits['test'][0]['label'].dtype == np.float32


def test_the_fingerprint_is_of_the_content(file):
  prints = [mosei(path=file(unaligned(s))).fingerprint for s in (0, 1, 0)]
  assert prints[0] == prints[2] != prints[1]


def changed(split, key, value):
  def change(data):
    data[split][key] = value(data[split].get(key)) if callable(value) else value

  return change


def test_the_wrong_file_is_one_line(file, tmp_path):
  nested = [1.0]
  for _ in range(50):
    nested = [nested, nested]
  for change, named in (
    (lambda d: d.pop('valid'), 'it holds train, test, and not a dict each'),
    (lambda d: [d[s].pop('regression_labels') for s in d], "neither 'regression_labels' nor 'labels'"),
    (lambda d: [d[s].pop(k) for s in d for k in DIMS], 'none of text, audio, vision'),
    (lambda d: d['test'].pop('audio'), "test has no 'audio'"),
    (changed('test', 'audio', lambda x: x[..., :3]), 'test.audio has 3 features, and train 5'),
    (changed('train', 'audio', lambda x: x[:5]), 'train.audio is float32 [5, 11, 5]'),
    (changed('train', 'audio', lambda x: list(x)), 'train.audio is list'),
    (changed('train', 'vision', lambda x: x.mean(1)), 'train.vision is float32 [96, 6]'),
    (changed('train', 'regression_labels', lambda x: np.stack([x, x], 1)), 'not one number'),
    (changed('train', 'regression_labels', nested), 'regression_labels is a list'),
    (changed('train', 'audio_lengths', lambda x: [99] * 96), 'not in 0 to 11'),
    (changed('train', 'audio_lengths', lambda x: x[1:]), '95 numbers for 96'),
    (changed('valid', 'raw_text', [2**40] * 32), 'valid.raw_text is not one text'),
    (changed('valid', 'raw_text', nested), 'valid.raw_text is not one text'),
  ):
    data = unaligned()
    change(data)
    with pytest.raises(KdjaxError) as caught:
      mosei(path=file(data))
    assert named in str(caught.value) and '\n' not in str(caught.value)
  with pytest.raises(KdjaxError, match='config.data.path'):
    mosei()
  with pytest.raises(KdjaxError, match='No such file'):
    mosei(path=str(tmp_path / 'none.pkl'))


def test_an_evil_file_is_refused(file, tmp_path):
  class Touch:
    def __reduce__(self):
      return eval, (f'open({str(tmp_path / "ran")!r}, "w")',)

  with pytest.raises(KdjaxError, match='builtins.eval'):
    mosei(path=file({s: d | {'annotations': Touch()} for s, d in unaligned().items()}))
  assert not (tmp_path / 'ran').exists()


def second_writing(answers, labels):
  """The metrics, one example at a time."""
  both = [(float(a), float(y)) for a, y in zip(answers, labels, strict=True) if not np.isnan(y)]
  n = len(both)
  result = {'mae': sum(abs(a - y) for a, y in both) / n}
  for key, most in (('acc7', 3), ('acc5', 2)):
    result[key] = sum(round(min(max(a, -most), most)) == round(min(max(y, -most), most)) for a, y in both) / n
  pairs = {
    'nonnegative': [(a >= 0, y >= 0) for a, y in both],
    'positive': [(a > 0, y > 0) for a, y in both if y != 0],
  }
  for key, these in pairs.items():
    result[f'acc2_{key}'] = sum(a == y for a, y in these) / len(these)
    f1 = 0
    for c in (True, False):
      hits = sum(a == y == c for a, y in these)
      precision = hits / max(sum(a == c for a, _ in these), 1)
      recall = hits / max(sum(y == c for _, y in these), 1)
      share = sum(y == c for _, y in these) / len(these)
      f1 += share * (2 * precision * recall / (precision + recall) if hits else 0)
    result[f'f1_{key}'] = f1
  result['correlation'] = np.corrcoef(*zip(*both, strict=True))[0, 1]
  return result


def test_metrics_are_those_of_the_field():
  rng, task = np.random.default_rng(0), sentiment()
  labels = rng.integers(-9, 10, 200) / 3
  labels[:20], labels[20:30] = 0, np.nan
  answers = np.nan_to_num(labels) + rng.normal(size=200)
  answers[40:45], answers[45:50] = 0.5, 0.0
  gathered = {'logits': answers[:, None].astype(np.float32), 'label': labels.astype(np.float32)}
  batch = {'label': jnp.asarray(gathered['label'])}
  summed = {
    k: s / c for k, (s, c) in task.metrics({'logits': jnp.asarray(gathered['logits'])}, batch).items()
  }
  result = task.finalize(gathered) | {'mae': float(summed['mae'])}
  expected = second_writing(gathered['logits'][:, 0], gathered['label'])
  assert result.keys() == expected.keys()
  for key, value in expected.items():
    assert result[key] == pytest.approx(value, abs=1e-6), key
  assert float(summed['loss']) == pytest.approx(result['mae'])
  median = task.references({'label': gathered['label']}, {'label': gathered['label']})
  known = labels[~np.isnan(labels)]
  assert list(median.values()) == pytest.approx([np.abs(known - np.median(known)).mean()], abs=1e-6)


def test_padding_and_unknown_labels_take_no_part():
  outputs = {'logits': jnp.array([[1.0], [jnp.nan], [5.0], [2.0]])}
  batch = {'label': jnp.array([0.0, 1.0, jnp.nan, 1.0]), 'mask': jnp.array([1.0, 0.0, 1.0, 1.0])}
  for loss, total in (('l1', 2.0), ('l2', 2.0)):
    task = sentiment(loss=loss)
    assert tuple(map(float, task.loss(outputs, batch))) == (total, 2.0)
    grads = jax.grad(lambda x, t=task: t.loss({'logits': x}, batch)[0])(outputs['logits'])
    assert np.isfinite(grads[np.array([0, 2, 3])]).all() and grads[2] == 0
  with pytest.raises(KdjaxError, match="unknown loss.*'l3'"):
    sentiment(loss='l3')


def test_the_other_sides_of_the_task():
  task, rng = sentiment(), np.random.default_rng(0)
  labels = np.array([-3, -1.2, 0, 0.4, 2.6, np.nan], np.float32)
  gathered = {
    s: {'logits': labels[:, None] + d, 'label': labels} for s, d in (('teacher', 0), ('student', 0.3))
  }
  assert task.compare(gathered['teacher'], gathered['teacher'] | {'logits': rng.normal(size=(6, 1))})
  same = {k: v[:5] for k, v in gathered['teacher'].items()}
  close = task.compare(same, same | {'logits': same['logits'] + 0.3})
  assert close == pytest.approx({'mae_to_teacher': 0.3, 'correlation_with_teacher': 1.0})
  cards = task.cards(gathered, [{'text': f't{i}'} for i in range(6)], ())
  assert len(cards) == 5 and all(c['teacher'] == c['truth'] for c in cards)
  assert {c['truth'] for c in cards} == {'highly negative', 'weakly negative', 'neutral', 'highly positive'}
  assert all(c['text'].startswith('t') for c in cards)
  assert task.answer({'logits': np.array([1.6])}, ()) == [('positive', 1.6)]
  assert [name(v) for v in (-9, 0.4, 9)] == ['highly negative', 'neutral', 'highly positive']


def batch_of(rng, b=3, lengths=(5, 7), widths=(4, 3), valid=((5, 2, 3), (7, 1, 4))):
  batch = {}
  for m, length, width, ns in zip(('words', 'audio'), lengths, widths, valid, strict=True):
    batch[m] = rng.normal(size=(b, length, width)).astype(np.float32)
    batch[f'{m}/mask'] = np.arange(length) < np.array(ns)[:, None]
  return batch


def filled(net, batch):
  """Variables of a model, biases and scales too, by chance: nothing is compiled for it."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(net.init, jax.random.key(0), batch)
  return jax.tree.map(lambda x: 0.6 * rng.normal(size=x.shape).astype(np.float32), shapes)


@pytest.fixture(scope='module')
def mult():
  net = Mult(modalities=('words', 'audio'), width=4, depth=1, heads=2, kernel=3, num_classes=1)
  batch = batch_of(np.random.default_rng(0)) | {'audio/present': np.ones(3, np.float32)}
  return jax.jit(net.apply), filled(net, batch), batch


def test_mult_is_what_it_says(mult):
  """The whole model once more, an example at a time, over its valid positions alone."""
  apply, variables, batch = mult
  taps = apply(variables, batch)
  p = jax.tree.map(np.asarray, variables['params'])

  def dense(x, q):
    return x @ q['kernel'] + q['bias']

  def norm(x, q):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * q['scale'] + q['bias']

  def stack(x, q, source=None):
    block = q['block1']
    y = norm(x, block['norm1'])
    z = y if source is None else norm(source, block['norm1'])
    a, d = block['attention'], x.shape[-1] // 2
    heads = []
    for h in (slice(0, d), slice(d, 2 * d)):
      query, key, value = dense(y, a['query'])[:, h], dense(z, a['key'])[:, h], dense(z, a['value'])[:, h]
      e = np.exp(query @ key.T / np.sqrt(d))
      heads.append(e / e.sum(-1, keepdims=True) @ value)
    x = x + dense(np.concatenate(heads, -1), a['out'])
    y = np.maximum(dense(norm(x, block['norm2']), block['mlp_in']), 0)
    return norm(x + dense(y, block['mlp_out']), q['norm'])

  for i in range(3):
    low, last = {}, []
    for m in ('words', 'audio'):
      x = batch[m][i][batch[f'{m}/mask'][i]]
      around = np.pad(x, ((1, 1), (0, 0)))
      x = sum(around[k : k + len(x)] @ p[f'project_{m}']['kernel'][k, 0] for k in range(3))
      place = np.arange(len(x))[:, None] / np.array([1, 10000])
      low[m] = 2 * x + np.concatenate([np.sin(place), np.cos(place)], -1)
    for m, other in (('words', 'audio'), ('audio', 'words')):
      x = stack(stack(low[m], p[f'{m}_from_{other}'], low[other]), p[f'{m}_within'])
      np.testing.assert_allclose(taps[f'{m}/tokens'][i, : len(x)], x, rtol=1e-4, atol=1e-4)
      last.append(x[-1])
    x = np.concatenate(last)
    x = x + dense(np.maximum(dense(x, p['hidden']), 0), p['residual'])
    np.testing.assert_allclose(taps['embed'][i], x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(taps['logits'][i], dense(x, p['head']), rtol=1e-4, atol=1e-4)


def test_an_absent_modality_and_padding_say_nothing(mult):
  apply, variables, batch = mult
  rng = np.random.default_rng(2)
  absent = batch | {'audio/present': np.array([1, 0, 1], np.float32)}
  other = dict(absent)
  other['audio'] = np.where(batch['audio/mask'][..., None], batch['audio'], 100 * rng.normal(size=(3, 7, 3)))
  other['audio'][1] = np.nan
  ours, theirs = apply(variables, absent), apply(variables, other)
  for tap in ('logits', 'embed', 'words/tokens', 'audio/embed'):
    np.testing.assert_array_equal(ours[tap], theirs[tap], err_msg=tap)
  assert (
    not ours['audio/embed'][1].any() and np.abs(ours['logits'][1] - apply(variables, batch)['logits'][1]) > 0
  )
  nothing = apply(variables, absent | {'words/mask': np.zeros((3, 5), bool)})
  assert np.isfinite(nothing['logits']).all()
  masked = apply(variables, absent | {'audio/mask': batch['audio/mask'] & np.array([1, 0, 1], bool)[:, None]})
  np.testing.assert_array_equal(masked['logits'], ours['logits'])

  grads = jax.jit(jax.grad(lambda v: apply(v, other)['logits'].sum()))(variables)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_mult_takes_one_modality_the_mean_and_nothing_else():
  batch = batch_of(np.random.default_rng(0))
  shapes = jax.eval_shape(
    lambda b: Mult(modalities=('audio',), width=4, depth=1, heads=2, pool='mean').init_with_output(
      jax.random.key(0), b
    )[0],
    batch,
  )
  assert (
    shapes['audio/tokens'].shape == (3, 7, 4) and shapes['embed'].shape == (3, 4) and 'logits' not in shapes
  )
  for net, named in (
    (Mult(modalities=('words',), pool='max'), 'unknown pool'),
    (Mult(modalities=('video',)), "wants the input 'video'"),
    (FeatureEncoder(modality='words'), r'as \[B, L, F\]'),
  ):
    inputs = batch if 'BLF' not in named.replace(', ', '') else {'words': np.zeros((2, 5), np.float32)}
    with pytest.raises(KdjaxError, match=named):
      jax.eval_shape(net.init, jax.random.key(0), inputs)
  assert positions(4, 5).shape == (4, 5)


def test_the_small_encoder_takes_the_mean_of_what_is_valid():
  batch = batch_of(np.random.default_rng(0))
  net = FeatureEncoder(modality='audio', width=6, num_classes=1)
  variables = filled(net, batch)
  taps = jax.jit(net.apply)(variables, batch)
  p = jax.tree.map(np.asarray, variables['params'])
  for i in range(3):
    x = batch['audio'][i][batch['audio/mask'][i]]
    x = np.maximum(x @ p['each']['kernel'] + p['each']['bias'], 0).mean(0)
    x = np.maximum(x @ p['hidden']['kernel'] + p['hidden']['bias'], 0)
    np.testing.assert_allclose(taps['embed'][i], x, rtol=1e-5, atol=1e-6)
  assert taps['logits'].shape == (3, 1)


@pytest.mark.whole
def test_a_whole_experiment(file, tmp_path):
  """On features that tell the label: after 100 steps the student alone is far better than the median."""
  config = recipe.get_config('smoke=1,inputs=words+audio')
  config.teacher.model.update(modalities=('words', 'audio'), width=8, heads=2, dropout=0.0)
  for m in (config.student.model, *config.student.model.encoders.values()):
    m.dropout = 0.0  # less to compile
  config.student.train.steps = config.run.save_every = 100
  config.seeds = 1
  config.run.eval_every = 50
  config.data.path = file(unaligned())
  exp = Experiment(config.to_dict(), tmp_path / 'w')
  results = stages.run(exp)
  assert results['metric'] == 'mae' and not results['higher_is_better']
  for stage, result in results['stages'].items():
    assert 0 < result['mean'] < 5
    assert result.keys() >= {
      'acc7',
      'acc5',
      'acc2_nonnegative',
      'f1_nonnegative',
      'acc2_positive',
      'correlation',
    }
    assert ('mae_to_teacher' in result) == (stage != 'teacher')
  (median,) = results['references'].values()
  assert results['stages']['baseline']['mean'] < 0.6 * median
  assert results['stages']['baseline']['correlation'] > 0.7
  assert json.loads((exp.workdir / 'results.json').read_text())['stages'].keys() == results['stages'].keys()
  page = (exp.workdir / 'report.html').read_text()
  assert 'mae' in page
  student = exp.model('student')
  batch = next(pipeline.eval_batches(exp.data.test, 8))
  variables = jax.tree.map(lambda x: x[0], exp.variables('student'))
  ours, _ = student.apply(variables, batch)
  blind, _ = student.apply(variables, batch | {'video': batch['video'] * 0 + 9})  # it has no face to see
  np.testing.assert_array_equal(ours['logits'], blind['logits'])
  assert ours['logits'].shape == (8, 1)
