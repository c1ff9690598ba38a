"""Answers of a trained model to arrays and texts."""

import shutil

import jax
import numpy as np
import pytest

from kdjax.errors import KdjaxError
from kdjax.experiment import predict, predict_files
from kdjax.input.images import read_image
from kdjax.pretrained import safetensors_io
from kdjax.runtime.files import read_json, write_json


@pytest.mark.whole
def test_it_answers_as_the_evaluation_does(trained, manifest):
  predictor = predict.load(trained.workdir)
  example, row = trained.data.dataset.splits['test'][0], trained.data.test.take([0])
  image = read_image(manifest.parent / '0.png', '')
  (answer,) = predictor.predict({'image': [image], 'text': [example['text']]})
  variables = {k: v for k, v in trained.variables('student').items()}
  one = {k: _first(v) for k, v in variables.items()}
  logits = np.asarray(trained.model('student').apply(one, row)[0]['logits'][0], np.float64)
  p = np.exp(logits - logits.max())
  classes = trained.data.dataset.classes
  assert [name for name, _ in answer] == [classes[i] for i in np.argsort(-p)]
  np.testing.assert_allclose([s for _, s in answer], np.sort(p / p.sum())[::-1], atol=1e-6)
  assert predictor.seconds({'image': [image]}) > 0


def test_what_is_not_read_is_said(trained, capsys):
  texts = ['is it red and round and large and heavy?', 'is it mauve?', None]
  predict.load(trained.workdir).predict({'text': texts}, batch=2)
  shown = capsys.readouterr().out
  assert "1 of 3 have a longer 'text' than data.text_length, and it is cut" in shown
  assert "warning: 'and', 'round', 'large', 'mauve': not in the vocabulary" in shown
  assert 'no image is given' in shown and '1 of 3 rows have no text' in shown
  predict.load(trained.workdir).predict({'text': ['is it red?'], 'image': [np.zeros((16, 16, 3), np.uint8)]})
  assert not capsys.readouterr().out


def test_weights_that_are_not_finite_answer_nothing(trained, tmp_path):
  shutil.copytree(trained.workdir, tmp_path / 'copy')
  path = tmp_path / 'copy' / 'student' / f'seed_{trained.seeds("student")[0]}.safetensors'
  broken = {k: _first(v) for k, v in trained.variables('student').items()}
  leaf = jax.tree.leaves(broken)[0]
  broken = jax.tree.map(lambda x: np.full_like(x, np.nan) if x is leaf else np.array(x), broken)
  safetensors_io.export(path, broken, trained.vocabulary_of('student'))
  with pytest.raises(KdjaxError, match='not finite'):
    predict.load(tmp_path / 'copy')


def _first(tree):
  return {k: _first(v) if isinstance(v, dict) else v[0] for k, v in tree.items()}


def test_what_is_not_given_is_absent_and_rows_are_answered_each(trained, manifest):
  predictor = predict.load(trained.workdir, 'teacher')
  assert predictor.inputs == ('image', 'text')
  images = [read_image(manifest.parent / f'{i}.png', '') for i in range(3)]
  answers = predictor.predict({'image': images, 'text': ['what colour is it?']}, top=2)
  assert [len(answer) for answer in answers] == [2, 2, 2]
  (answer,) = predictor.predict({'text': ['is it red?']})
  assert len(answer) == 5
  both = predictor.predict({'text': ['is it red?'] * 2, 'image': [None, images[0]]})
  assert [name for name, _ in both[0]] == [name for name, _ in answer]
  np.testing.assert_allclose(*([s for _, s in row] for row in (both[0], answer)), atol=1e-6)
  assert abs(both[1][0][1] - answer[0][1]) > 1e-6


def test_batches_are_filled_up_and_change_no_answer(trained, manifest):
  predictor = predict.load(trained.workdir)
  columns = {
    'image': [read_image(manifest.parent / f'{i}.png', '') for i in range(5)],
    'text': ['is it red?'],
  }
  answers = predictor.predict(columns, batch=2)
  assert predictor.forward.func._cache_size() == 1
  for one, other in zip(answers, predictor.predict(columns, batch=5), strict=True):
    assert [name for name, _ in one] == [name for name, _ in other]
    np.testing.assert_allclose(*([s for _, s in row] for row in (one, other)), atol=1e-6)


def test_other_sizes_and_channels_are_taken(trained):
  predictor, rng = predict.load(trained.workdir), np.random.default_rng(0)
  shapes = ((40, 30, 3), (20, 30), (9, 9, 1))
  images = [rng.integers(0, 255, shape, np.uint8) for shape in shapes]
  assert len(predictor.predict({'image': images, 'text': ['what colour is it?']})) == 3
  with pytest.raises(KdjaxError, match=r'an image is an array \[height, width, channels\], and not \[7\]'):
    predictor.predict({'image': [np.zeros(7)]})


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    ({}, r'what about\? Give image and text'),
    ({'audio': [np.zeros(3)]}, 'the model takes image and text, and no audio'),
    ({'text': ['a', 'b'], 'image': [None] * 3}, 'text is given 2 times'),
  ],
)
def test_a_mistake_is_one_line(trained, given, said):
  with pytest.raises(KdjaxError, match=said) as raised:
    predict.load(trained.workdir).predict(given)
  assert '\n' not in str(raised.value)


def test_no_model_is_one_line(trained, tmp_path):
  with pytest.raises(KdjaxError, match='holds no finished student'):
    predict.load(tmp_path / 'empty')
  with pytest.raises(KdjaxError, match='has the seeds 0, and no 7'):
    predict.load(trained.workdir, seed=7)


@pytest.mark.parametrize(('shape', 'rate', 'kind'), [((40,), 0, ''), ((5, 3), 100, 'array')])
def test_sounds_of_no_known_rate_are_not_asked_for(trained, tmp_path, shape, rate, kind):
  """A data set that does not tell its rate: no file can be read as one. Features are arrays of .npy files."""
  folder = tmp_path / 'w'
  shutil.copytree(trained.workdir, folder)
  path = folder / 'student' / 'stage.json'
  message = read_json(path, dict, '')
  message['example']['audio'], message['rate'] = (shape, 'float32'), rate
  write_json(path, message)
  predictor = predict.load(folder)
  assert predict_files.readable(predictor) == ('image', 'text', 'audio')[: 2 + bool(kind)]
  assert predict_files.kind(predictor, 'audio') == kind
