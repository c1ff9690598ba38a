"""Missing and noisy senses: what is hidden cannot be heard, and every subset has its row."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.errors import KdjaxError
from kdjax.evaluation import modality_robustness
from kdjax.experiment import stages
from kdjax.nn import missing_modality
from kdjax.types import Model

NAMES = ('image', 'text')


@pytest.fixture
def batch():
  rng = np.random.default_rng(0)
  return {
    'image': rng.integers(0, 255, (4, 6, 6, 3), np.uint8),
    'text': rng.integers(1, 9, (4, 5), np.int32),
    'text/mask': np.ones((4, 5), bool),
    'id': np.arange(4, dtype=np.int32),
  }


def seen(batch, present, level=(0.0, 0.0)):
  """What a model is given."""
  message = np.broadcast_to(np.stack([present, level], -1).astype(np.float32), (4, 2, 2))
  model = modality_robustness.with_missing(
    Model(None, lambda v, b, train=False: (b, {})), {n: n for n in NAMES}
  )
  return jax.jit(lambda b: model.apply({}, b, train=False)[0])(batch | {modality_robustness.ABLATED: message})


def test_all_subsets():
  assert modality_robustness.subsets(('a', 'b', 'c')) == [
    ('a', 'b', 'c'), ('a', 'b'), ('a', 'c'), ('b', 'c'), ('a',), ('b',), ('c',)
  ]  # fmt: skip


@pytest.mark.parametrize('hidden', NAMES)
def test_nothing_of_what_is_hidden_is_left(batch, hidden):
  present = [name != hidden for name in NAMES]
  other = batch | {hidden: np.flip(batch[hidden], 0)}
  a, b = seen(batch, present), seen(other, present)
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert not np.any(a[f'{hidden}/present'])
  kept = next(n for n in NAMES if n != hidden)
  assert np.all(a[f'{kept}/present'] == 1)


def test_whole_and_without_noise_is_as_it_was(batch):
  result = seen(batch, (1, 1))
  np.testing.assert_allclose(result['image'], batch['image'] / 127.5 - 1, atol=1e-6)
  np.testing.assert_array_equal(result['text/mask'], batch['text/mask'])


def test_noise_is_of_the_example_and_not_of_the_batch(batch):
  result = seen(batch, (1, 1), (0.5, 0.5))
  order = np.array([2, 0, 3, 1])
  turned = seen({k: v[order] for k, v in batch.items()}, (1, 1), (0.5, 0.5))
  for key in ('image', 'text/mask'):
    np.testing.assert_array_equal(np.asarray(result[key])[order], turned[key])
  assert not np.allclose(result['image'], batch['image'] / 127.5 - 1, atol=0.1)


def test_a_level_of_one_leaves_no_signal(batch):
  result = seen(batch, (1, 1), (1.0, 1.0))
  assert not np.any(result['text/mask'])
  image = batch['image'] / 127.5 - 1
  assert abs(np.corrcoef(np.ravel(result['image']), image.ravel())[0, 1]) < 0.2
  np.testing.assert_allclose(np.std(result['image']), image.std(), rtol=0.15)


@pytest.mark.whole
def test_an_experiment_reports_every_subset(config, experiment, tmp_path):
  config.seeds = 2
  config.student.drop = {'image': 0.3, 'text': 0.3}
  config.modality_robustness.update(subsets=True, noise=(0.0, 0.5))
  results = stages.run(experiment())
  robustness = results['modality_robustness']
  assert set(robustness['subsets']) == {'image+text', 'image', 'text'}
  for stage in ('teacher', 'baseline', 'student'):
    whole = results['stages'][stage]['values']
    np.testing.assert_allclose(robustness['subsets']['image+text'][stage], whole, atol=1e-6)
    np.testing.assert_allclose(robustness['noise']['text 0'][stage], whole, atol=1e-6)
  assert {n.rsplit(' ', 1)[0] for n in robustness['noise']} == {'image', 'text'}
  page = (tmp_path / 'w' / 'report.html').read_text()
  assert 'with missing modalities' in page and 'with noise in text' in page
  text = (tmp_path / 'w' / 'report.md').read_text()
  assert re.search(r'\| image \|.*\|', text) and '## Missing modalities' in text
  config.modality_robustness.noise = ()  # subsets alone
  alone = stages.run(experiment(), ('compare',))['modality_robustness']
  assert len(alone['subsets']) == 3 and alone['noise'] == {}


def test_a_student_of_one_modality_has_one_subset(batch):
  names = modality_robustness.modalities({'image': 'image'}, batch)
  assert names == {'image': 'image'} and modality_robustness.subsets(tuple(names)) == [('image',)]
  assert tuple(modality_robustness.modalities({}, batch)) == NAMES


def test_an_input_of_another_name_is_hidden_too(batch):
  """A teacher that reads 'english' as its text lacks it where the student lacks its own."""
  batch = batch | {'english': batch['text'], 'english/mask': batch['text/mask']}
  names = modality_robustness.modalities({'image': 'image', 'text': 'english'}, batch)
  assert names == {'image': 'image', 'text': 'english'}
  model = Model(None, lambda variables, seen, **_: seen)
  message = np.broadcast_to(np.float32([[1, 0], [0, 0]]), (len(batch['id']), 2, 2))
  result = modality_robustness.with_missing(model, names).apply(
    {}, batch | {modality_robustness.ABLATED: message}
  )
  assert not np.any(result['english']) and not np.any(result['english/present'])
  assert np.any(result['text']) and np.any(result['image'])


@pytest.mark.parametrize('noise', [(7.0,), (-0.1,), ('a',)])
def test_a_level_of_noise_is_a_share(config, experiment, noise):
  config.modality_robustness.noise = noise
  with pytest.raises(KdjaxError, match='modality_robustness.noise is .* numbers from 0 to 1'):
    stages.run(experiment())


@pytest.mark.whole
def test_fusion_ignores_what_is_absent(experiment):
  """Hidden inputs change nothing in a fusion: the same logits for any content."""
  exp = experiment()
  model, batch = exp.model('teacher'), exp.data.test.take(np.arange(4))
  variables = model.init(jax.random.key(0), batch)
  for absent in NAMES:
    outs = []
    for shift in (0, 1):
      b = batch | {absent: np.roll(batch[absent], shift, 0)}
      outs.append(model.apply(variables, missing_modality.hide(b, absent, jnp.zeros(4)))[0]['logits'])
    np.testing.assert_array_equal(*outs)
