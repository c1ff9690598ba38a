"""Models of videos, sequences and candidates: padding changes nothing, inputs of other axes are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import model_cases
from kdjax.errors import KdjaxError
from kdjax.evaluation import modality_robustness
from kdjax.experiment import build
from kdjax.nn import missing_modality
from kdjax.nn.functional import functions
from kdjax.types import modalities

TEMPORAL = {'model': 'temporal_cnn', 'modality': 'skeleton', 'widths': (6, 8, 8), 'num_classes': 3}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 9, 5)).astype(np.float32)
VIDEO = RNG.integers(0, 256, (4, 6, 16, 16, 1)).astype(np.uint8)
LENGTHS = np.array([9, 4, 7, 1])


def run(config, batch, train=False, fill=None):
  pure = functions(build.module(config, fill or {}), {})
  variables = pure.init(jax.random.key(0), batch)
  return pure.apply(variables, batch, train=train, rng=jax.random.key(1))


@pytest.mark.whole
@pytest.mark.parametrize('train', [False, True])
def test_what_lies_beyond_the_end_of_a_sequence_changes_nothing(train):
  """Neither the values there, nor how long the padding is; in training its batch norms leave it out too."""
  mask = np.arange(9) < LENGTHS[:, None]
  plain, stats = run(TEMPORAL, {'skeleton': X, 'skeleton/mask': mask}, train)
  noise = np.where(mask[..., None], X, 1e3).astype(np.float32)
  longer = np.concatenate([noise, np.full((4, 5, 5), 7, np.float32)], 1)
  long_mask = np.concatenate([mask, np.zeros((4, 5), bool)], 1)
  padded, padded_stats = run(TEMPORAL, {'skeleton': longer, 'skeleton/mask': long_mask}, train)
  for tap in ('logits', 'embed'):
    np.testing.assert_allclose(plain[tap], padded[tap], atol=2e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), stats, padded_stats)


@pytest.mark.whole
def test_a_batch_that_lacks_a_sequence_leaves_finite_statistics():
  nothing = {'skeleton': X, 'skeleton/mask': np.zeros((4, 9), bool)}
  for train in (False, True):
    outputs, stats = run(TEMPORAL, nothing, train)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((outputs, stats)))
  video = {'video': VIDEO, 'video/mask': np.zeros((4, 6), bool)}
  image = {'model': 'resnet', 'widths': (6,), 'blocks': (1,), 'patch': 4}
  for model in (
    {'model': 'frames', 'image': image, 'pool': 'max'},
    {'model': 'r2plus1d', 'widths': (6,), 'blocks': (1,)},
  ):
    outputs, _ = run(model | {'num_classes': 3}, video)
    assert np.isfinite(outputs['logits']).all()


@pytest.mark.whole
def test_no_frame_that_is_not_there_reaches_another():
  """Also once the biases of its batch norms are not 0."""
  config = {'model': 'r2plus1d', 'widths': (6, 8), 'blocks': (1, 1), 'num_classes': 3}
  mask = np.arange(6) < np.array([3, 3, 5, 1])[:, None]
  pure = functions(build.module(config, {}), {})
  variables = pure.init(jax.random.key(0), {'video': VIDEO, 'video/mask': mask})
  moved = jax.tree.map(lambda x: x + 0.3, variables)
  short, long = (
    pure.apply(moved, {'video': VIDEO[:2, :n], 'video/mask': mask[:2, :n]}, train=False)[0]['logits']
    for n in (3, 6)
  )
  np.testing.assert_allclose(short, long, rtol=1e-4)


def test_the_order_of_a_sequence_counts():
  logits = [run(TEMPORAL, {'skeleton': x})[0]['logits'] for x in (X, X[:, ::-1])]
  assert np.abs(logits[0] - logits[1]).max() > 1e-3


@pytest.mark.parametrize(
  'config',
  [
    {'model': 'r2plus1d', 'widths': (6, 8), 'blocks': (1, 1), 'num_classes': 3},
    {
      'model': 'frames',
      'image': {'model': 'resnet', 'widths': (6,), 'blocks': (1,), 'patch': 4},
      'pool': 'max',
    },
    {
      'model': 'frames',
      'image': {'model': 'resnet', 'widths': (6,), 'blocks': (1,), 'patch': 4},
      'sequence': {'model': 'temporal_cnn', 'modality': 'frames', 'widths': (6,)},
    },
  ],
  ids=['r2plus1d', 'frames', 'frames of a sequence'],
)
def test_frames_that_are_not_there_change_nothing(config):
  config = config | {'num_classes': 3}
  mask = np.arange(6) < np.array([6, 3, 5, 1])[:, None]
  other = np.where(mask[..., None, None, None], VIDEO, 255 - VIDEO)
  a, b = (run(config, {'video': v, 'video/mask': mask})[0] for v in (VIDEO, other))
  np.testing.assert_allclose(a['logits'], b['logits'], atol=1e-5)
  whole = run(config, {'video': VIDEO})[0]
  np.testing.assert_allclose(whole['logits'][0], a['logits'][0], atol=1e-5)
  assert np.abs(np.asarray(whole['logits'][1] - a['logits'][1])).max() > 1e-4
  assert a['tokens'].shape[:2] == (4, 6)


def pointer(**options):
  text = {'model': 'transformer', 'width': 8, 'depth': 1}
  return {'model': 'pointer', 'width': 8, 'text': text, 'num_classes': 5} | options


@pytest.mark.whole
def test_a_pointer_follows_its_candidates():
  """Candidates have no order: the scores of others in another order are the same in that order."""
  batch = model_cases.batch('pointer', 4)
  order = np.array([3, 0, 4, 1, 2])
  fill = {'vocab_size': model_cases.WORDS}
  a = run(pointer(), batch, fill=fill)[0]['logits']
  b = run(pointer(), batch | {'candidates': batch['candidates'][:, order]}, fill=fill)[0]['logits']
  np.testing.assert_allclose(a[:, order], b, atol=1e-5)
  other_text = run(pointer(), batch | {'text': batch['text'][::-1]}, fill=fill)[0]['logits']
  assert np.abs(np.asarray(a - other_text)).max() > 1e-4


def test_a_candidate_that_is_not_there_is_never_pointed_at_and_changes_nothing():
  batch, fill = model_cases.batch('pointer', 4), {'vocab_size': model_cases.WORDS}
  there = np.array([[True, True, False, True, True]] * 4)
  values = batch['candidates'].copy()
  values[:, 2] = 9
  a, b = (
    run(pointer(), batch | {'candidates': v, 'candidates/mask': there}, fill=fill)[0]['logits']
    for v in (batch['candidates'], values)
  )
  np.testing.assert_allclose(a, b, atol=1e-5)
  assert np.all(np.argmin(a, -1) == 2) and np.all(jax.nn.softmax(a)[:, 2] == 0)
  hidden = batch | {'candidates/mask': there, 'text/present': np.zeros(4, np.float32)}
  one, two = (
    run(pointer(), hidden | {'text': t}, fill=fill)[0]['logits'] for t in (batch['text'], batch['text'][::-1])
  )
  np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.whole
def test_a_pointer_counts_its_candidates():
  with pytest.raises(KdjaxError, match='5 candidates, and the data have 7 classes'):
    run(pointer(num_classes=7), model_cases.batch('pointer', 2), fill={'vocab_size': model_cases.WORDS})


@pytest.mark.parametrize(
  ('model', 'key'),
  [
    ({'model': 'resnet', 'inputs': 'video'}, 'image'),
    ({'model': 'vit', 'inputs': 'video'}, 'image'),
    ({'model': 'convnext', 'inputs': 'video'}, 'image'),
    ({'model': 'r2plus1d', 'inputs': 'picture'}, 'video'),
    ({'model': 'bag_of_words', 'inputs': 'video'}, 'text'),
    ({'model': 'mel_cnn', 'inputs': 'video'}, 'audio'),
    ({'model': 'temporal_cnn', 'modality': 'audio', 'inputs': 'sound'}, 'audio'),
  ],
)
def test_an_input_of_other_axes_is_refused(model, key):
  batch = {'video': VIDEO, 'picture': VIDEO[:, 0], 'sound': X[:, :, 0]}
  name = model['model']
  net = build.module({k: v for k, v in model.items() if k != 'inputs'}, {'vocab_size': 9, 'num_classes': 3})
  pure = functions(net, {key: model['inputs']})
  with pytest.raises(KdjaxError, match=rf"'{key}'.*\[|mel: audio") as e:
    jax.eval_shape(pure.init, jax.random.key(0), batch)
  assert '\n' not in str(e.value), name


def test_every_bare_key_that_is_read_is_a_modality():
  batch = dict.fromkeys(('skeleton', 'label', 'audio', 'audio/mask', 'id', 'domain', 'image', 'view:x/image'))
  assert modalities(batch) == ['image', 'audio', 'skeleton']
  names = modality_robustness.modalities({}, batch)
  assert modality_robustness.subsets(tuple(names))[0] == ('image', 'audio', 'skeleton')
  assert modality_robustness.modalities({'sensor': 'skeleton'}, batch) == {'sensor': 'skeleton'}


def test_a_modality_of_any_name_is_dropped():
  inputs = {'skeleton': jnp.ones((400, 3, 2)), 'inertial': jnp.ones((400, 3, 2))}
  dropped = missing_modality.drop_modalities(jax.random.key(0), inputs, {'skeleton': 0.5})
  present = np.asarray(dropped['skeleton/present'])
  assert 0.4 < present.mean() < 0.6
  np.testing.assert_array_equal(np.asarray(dropped['skeleton']).max((1, 2)), present)
  with pytest.raises(KdjaxError, match="'skeleton', the only input"):
    missing_modality.drop_modalities(jax.random.key(0), {'skeleton': X}, {'skeleton': 0.5})


def test_noise_of_a_modality_of_any_name():
  batch = {'skeleton': jnp.asarray(X), 'id': np.arange(4)}
  noisy = modality_robustness.add_noise(batch, 'skeleton', jnp.array([0.0, 1.0, 1.0, 0.0]))['skeleton']
  np.testing.assert_array_equal(noisy[0], X[0])
  assert np.abs(np.asarray(noisy[1]) - X[1]).max() > 0.5
